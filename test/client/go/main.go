// A grpc-go client whose stubs were generated from the server's own reflection: every kind of call there is, checked. Prints one
// line a check, "ok NAME"; the first that fails ends it with a sentence.
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	health "penstock/test/clients/stubs/grpc_health_v1"
	inference "penstock/test/clients/stubs/inference"
	models "penstock/test/clients/stubs/penstock_models"
)

func fail(format string, values ...interface{}) {
	fmt.Fprintf(os.Stderr, format+"\n", values...)
	os.Exit(1)
}

func must(err error, what string) {
	if err != nil {
		fail("%s: %v", what, err)
	}
}

func expect(code codes.Code, words string, err error, what string) {
	if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), words) {
		fail("%s: %v, expected %v with %q", what, err, code, words)
	}
}

func floats(values ...float32) []byte {
	out := make([]byte, 4*len(values))
	for i, value := range values {
		binary.LittleEndian.PutUint32(out[4*i:], math.Float32bits(value))
	}
	return out
}

func iris(i int) *inference.ModelInferRequest {
	rows := [][]float32{{5.1, 3.5, 1.4, 0.2}, {6.7, 3.1, 4.7, 1.5}, {6.3, 3.3, 6.0, 2.5}}
	return &inference.ModelInferRequest{ModelName: "iris", Id: fmt.Sprint(i),
		Inputs: []*inference.ModelInferRequest_InferInputTensor{{Name: "input", Datatype: "FP32", Shape: []int64{1, 4}}},
		RawInputContents: [][]byte{floats(rows[i%3]...)}}
}

func label(answer *inference.ModelInferResponse) int {
	for i, output := range answer.GetOutputs() {
		if output.GetName() == "label" {
			return int(binary.LittleEndian.Uint64(answer.GetRawOutputContents()[i]))
		}
	}
	return -1
}

func echo(model string, data []byte) *inference.ModelInferRequest {
	return &inference.ModelInferRequest{ModelName: model,
		Inputs: []*inference.ModelInferRequest_InferInputTensor{
			{Name: "IN", Datatype: "FP32", Shape: []int64{1, int64(len(data) / 4)}}},
		RawInputContents: [][]byte{data}}
}

func main() {
	connection, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30), grpc.MaxCallSendMsgSize(1<<30)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}))
	must(err, "connecting")
	defer connection.Close()
	whole, cancel := context.WithTimeout(context.Background(), 100*time.Second)
	defer cancel()
	kserve := inference.NewGRPCInferenceServiceClient(connection)

	live, err := kserve.ServerLive(whole, &inference.ServerLiveRequest{})
	must(err, "ServerLive")
	if !live.GetLive() {
		fail("not live")
	}
	described, err := kserve.ModelMetadata(whole, &inference.ModelMetadataRequest{Name: "iris"})
	must(err, "ModelMetadata")
	if described.GetPlatform() != "onnxruntime_onnx" || described.GetInputs()[0].GetShape()[1] != 4 {
		fail("ModelMetadata: %v", described)
	}
	fmt.Println("ok metadata")

	var header, trailer metadata.MD
	answer, err := kserve.ModelInfer(whole, iris(2), grpc.Header(&header), grpc.Trailer(&trailer))
	must(err, "ModelInfer")
	if label(answer) != 2 || answer.GetId() != "2" || len(header.Get("content-type")) != 1 {
		fail("ModelInfer: %v %v", answer, header)
	}
	fmt.Println("ok infer")

	packed, err := kserve.ModelInfer(whole, iris(2), grpc.UseCompressor(gzip.Name))
	must(err, "ModelInfer with gzip")
	if !proto.Equal(packed, answer) {
		fail("gzip: %v, without %v", packed, answer)
	}
	fmt.Println("ok gzip")

	big := bytes.Repeat([]byte("abcd0123"), 2<<20)
	large, err := kserve.ModelInfer(whole, echo("echo_FP32", big))
	must(err, "16 MiB")
	if !bytes.Equal(large.GetRawOutputContents()[0], big) {
		fail("16 MiB came back changed")
	}
	fmt.Println("ok large")

	var group sync.WaitGroup
	failed := make(chan string, 1000)
	for i := 0; i < 1000; i++ {
		group.Add(1)
		go func(i int) {
			defer group.Done()
			found, err := kserve.ModelInfer(whole, iris(i))
			if err != nil || label(found) != i%3 || found.GetId() != fmt.Sprint(i) {
				failed <- fmt.Sprintf("call %d of many: %v %v", i, found, err)
			}
		}(i)
	}
	group.Wait()
	if len(failed) > 0 {
		fail("%d of 1000 calls failed; first: %s", len(failed), <-failed)
	}
	fmt.Println("ok many")

	_, err = kserve.ModelInfer(whole, &inference.ModelInferRequest{ModelName: "none"})
	expect(codes.NotFound, "none", err, "a model that is not there")
	_, err = kserve.SystemSharedMemoryStatus(whole, &inference.SystemSharedMemoryStatusRequest{})
	expect(codes.Unimplemented, "shared memory", err, "shared memory")
	short, stop := context.WithTimeout(whole, 200*time.Millisecond)
	_, err = kserve.ModelInfer(short, echo("slow", floats(1)))
	stop()
	expect(codes.DeadlineExceeded, "", err, "a deadline")
	leaving, leave := context.WithCancel(whole)
	time.AfterFunc(100*time.Millisecond, leave)
	_, err = kserve.ModelInfer(leaving, echo("slow", floats(1)))
	expect(codes.Canceled, "", err, "a call that was cancelled")
	fmt.Println("ok errors")

	flower, err := models.NewIrisClient(connection).Predict(whole, &models.IrisPredictRequest{SepalLength: proto.Float32(6.3),
		SepalWidth: proto.Float32(3.3), PetalLength: proto.Float32(6.0), PetalWidth: proto.Float32(2.5)})
	must(err, "Iris.Predict")
	if flower.GetLabel() != "virginica" || flower.GetProbability() < 0.5 {
		fail("Iris.Predict: %v", flower)
	}
	text, err := models.NewSpamClient(connection).Predict(whole, &models.SpamPredictRequest{Text: proto.String("You won a prize")})
	must(err, "Spam.Predict")
	if text.GetLabel() != "spam" {
		fail("Spam.Predict: %v", text)
	}
	_, err = models.NewIrisClient(connection).Predict(whole, &models.IrisPredictRequest{SepalLength: proto.Float32(510)})
	expect(codes.InvalidArgument, "sepal_length", err, "a wrong field")
	if len(status.Convert(err).Details()) == 0 && len(status.Convert(err).Proto().GetDetails()) == 0 {
		fail("a wrong field: no details in %v", err)
	}
	fmt.Println("ok typed")

	typed := models.NewIrisClient(connection)
	many, err := typed.PredictStream(whole, &models.IrisPredictRequest{Measurements: []float32{6.3, 3.3, 6.0, 2.5}})
	must(err, "PredictStream")
	first, err := many.Recv()
	must(err, "the answer of PredictStream")
	if first.GetLabel() != "virginica" || first.GetStream().GetSequence() != 1 {
		fail("PredictStream: %v", first)
	}
	if _, err = many.Recv(); err != io.EOF {
		fail("PredictStream has an end: %v", err)
	}
	pieces, err := typed.PredictCollect(whole)
	must(err, "PredictCollect")
	for i := 0; i < 1000; i++ {
		must(pieces.Send(&models.IrisPredictRequest{Measurements: []float32{5.1, 3.5, 1.4, 0.2},
			Stream: &models.IrisPredictRequest_Stream{Sequence: uint64(i + 1)}}), "a piece")
	}
	stacked, err := pieces.CloseAndRecv()
	must(err, "the answer of PredictCollect")
	if len(stacked.GetRows()) != 1000 || stacked.GetRows()[999].GetLabel() != "setosa" {
		fail("PredictCollect: %d rows", len(stacked.GetRows()))
	}
	session, err := typed.PredictSession(whole)
	must(err, "PredictSession")
	for i := 0; i < 100; i++ {
		must(session.Send(&models.IrisPredictRequest{Measurements: []float32{5.1, 3.5, 1.4, 0.2}}), "a message")
		reply, err := session.Recv()
		must(err, "its answer")
		if reply.GetLabel() != "setosa" || reply.GetStream().GetInput() != uint64(i+1) || !reply.GetStream().GetIsLast() {
			fail("PredictSession, %d: %v", i, reply)
		}
	}
	must(session.Send(&models.IrisPredictRequest{Measurements: []float32{1, 2}}), "a wrong message")
	_, err = session.Recv()
	expect(codes.InvalidArgument, "message 101: measurements: 2 values", err, "a wrong message")
	fmt.Println("ok streams")

	watching, unwatch := context.WithCancel(whole)
	watch, err := health.NewHealthClient(connection).Watch(watching, &health.HealthCheckRequest{})
	must(err, "Watch")
	state, err := watch.Recv()
	must(err, "Watch")
	if state.GetStatus() != health.HealthCheckResponse_SERVING {
		fail("Watch: %v", state)
	}
	unwatch()
	_, err = watch.Recv()
	expect(codes.Canceled, "", err, "a watch that was cancelled")
	fmt.Println("ok health")
}
