// gRPC-Web by Connect's client for Go: each case prints "ok NAME" or ends the program.
//
//	client URL
//
// Messages are grpc-go's own of the interop service, which the server has under --test-services.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/net/http2"
	pb "google.golang.org/grpc/interop/grpc_testing"
)

const service = "/grpc.testing.TestService/"

// HTTP/2 with prior knowledge.
func overHTTP2() *http.Client {
	return &http.Client{Transport: &http2.Transport{
		AllowHTTP: true,
		DialTLSContext: func(ctx context.Context, network, address string, _ *tls.Config) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
	}}
}

type clients struct {
	unary   *connect.Client[pb.SimpleRequest, pb.SimpleResponse]
	answers *connect.Client[pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse]
	sums    *connect.Client[pb.StreamingInputCallRequest, pb.StreamingInputCallResponse]
}

func newClients(over *http.Client, url string, more ...connect.ClientOption) clients {
	options := append([]connect.ClientOption{connect.WithGRPCWeb()}, more...)
	return clients{
		connect.NewClient[pb.SimpleRequest, pb.SimpleResponse](over, url+service+"UnaryCall", options...),
		connect.NewClient[pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse](over, url+service+"StreamingOutputCall", options...),
		connect.NewClient[pb.StreamingInputCallRequest, pb.StreamingInputCallResponse](over, url+service+"StreamingInputCall", options...),
	}
}

func insist(is bool, format string, values ...any) {
	if !is {
		fmt.Printf("not ok: "+format+"\n", values...)
		os.Exit(1)
	}
}

func unary(c clients) {
	for _, size := range []int{0, 1, 70000, 5 << 20} {
		request := &pb.SimpleRequest{ResponseSize: int32(size), Payload: &pb.Payload{Body: make([]byte, size)}}
		answer, err := c.unary.CallUnary(context.Background(), connect.NewRequest(request))
		insist(err == nil, "%d bytes: %v", size, err)
		insist(bytes.Equal(answer.Msg.GetPayload().GetBody(), make([]byte, size)), "%d bytes came as %d", size, len(answer.Msg.GetPayload().GetBody()))
	}
}

func metadata(c clients) {
	request := connect.NewRequest(&pb.SimpleRequest{})
	request.Header().Set("x-grpc-test-echo-initial", "first")
	request.Header().Set("x-grpc-test-echo-trailing-bin", connect.EncodeBinaryHeader([]byte{0xab, 0, 0xcd}))
	answer, err := c.unary.CallUnary(context.Background(), request)
	insist(err == nil, "%v", err)
	insist(answer.Header().Get("x-grpc-test-echo-initial") == "first", "headers: %v", answer.Header())
	last, err := connect.DecodeBinaryHeader(answer.Trailer().Get("x-grpc-test-echo-trailing-bin"))
	insist(err == nil && bytes.Equal(last, []byte{0xab, 0, 0xcd}), "trailers: %v", answer.Trailer())
}

func status(c clients) {
	request := &pb.SimpleRequest{ResponseStatus: &pb.EchoStatus{Code: 9, Message: "\t50 % größer ☺\n"}}
	_, err := c.unary.CallUnary(context.Background(), connect.NewRequest(request))
	var failed *connect.Error
	insist(errors.As(err, &failed) && failed.Code() == connect.CodeFailedPrecondition, "%v", err)
	insist(failed.Message() == "\t50 % größer ☺\n", "%q", failed.Message())
}

func stream(c clients) {
	request := &pb.StreamingOutputCallRequest{}
	for i := 0; i < 20; i++ {
		request.ResponseParameters = append(request.ResponseParameters, &pb.ResponseParameters{Size: int32(i * 1000), IntervalUs: 5000})
	}
	begun := time.Now()
	answers, err := c.answers.CallServerStream(context.Background(), connect.NewRequest(request))
	insist(err == nil, "%v", err)
	count, first := 0, time.Duration(0)
	for ; answers.Receive(); count++ {
		if count == 0 {
			first = time.Since(begun)
		}
		insist(len(answers.Msg().GetPayload().GetBody()) == count*1000, "message %d has %d bytes", count, len(answers.Msg().GetPayload().GetBody()))
	}
	insist(answers.Err() == nil && count == 20, "%d messages: %v", count, answers.Err())
	insist(first < time.Since(begun)/2, "the first came after %v of %v", first, time.Since(begun))
}

func deadline(c clients) {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	request := &pb.StreamingOutputCallRequest{ResponseParameters: []*pb.ResponseParameters{{Size: 1}, {Size: 1, IntervalUs: 30000000}}}
	answers, err := c.answers.CallServerStream(ctx, connect.NewRequest(request))
	insist(err == nil, "%v", err)
	for answers.Receive() {
	}
	insist(connect.CodeOf(answers.Err()) == connect.CodeDeadlineExceeded, "%v", answers.Err())
}

// One message in a stream to the server is fine, a second one is told.
func one_message(c clients) {
	for count := 1; count <= 2; count++ {
		call := c.sums.CallClientStream(context.Background())
		for i := 0; i < count; i++ {
			_ = call.Send(&pb.StreamingInputCallRequest{Payload: &pb.Payload{Body: make([]byte, 1000)}})
		}
		answer, err := call.CloseAndReceive()
		if count == 1 {
			insist(err == nil && answer.Msg.GetAggregatedPayloadSize() == 1000, "%v", err)
		} else {
			insist(connect.CodeOf(err) == connect.CodeUnimplemented && strings.Contains(err.Error(), "WebSocket"), "%v", err)
		}
	}
}

func main() {
	url := os.Args[1]
	for name, over := range map[string]*http.Client{"http1": http.DefaultClient, "http2": overHTTP2()} {
		c := newClients(over, url)
		for _, one := range []struct {
			name string
			run  func(clients)
		}{{"unary", unary}, {"metadata", metadata}, {"status", status}, {"stream", stream}, {"deadline", deadline}, {"one_message", one_message}} {
			one.run(c)
			fmt.Println("ok " + name + "_" + one.name)
		}
		unary(newClients(over, url, connect.WithSendGzip()))
		fmt.Println("ok " + name + "_gzip")
	}
}
