// The peer in grpc-go: answers every call with fixed messages, and parses none. Runs no model.
//
//	server PORT FILE                            one message
//	server PORT FILE OFFSET COUNT PERIOD_MS     a stream of COUNT messages, one each PERIOD; at OFFSET (-1: nowhere)
//	                                            each says when it was due: 8 bytes, nanoseconds of CLOCK_MONOTONIC
package main

import (
	"encoding/binary"
	"log"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"google.golang.org/grpc"
)

type raw struct{}

func (raw) Marshal(v interface{}) ([]byte, error) { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v interface{}) error {
	*v.(*[]byte) = data
	return nil
}
func (raw) Name() string { return "proto" }

func monotonic() int64 {
	var now syscall.Timespec
	syscall.Syscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&now)), 0)
	return now.Nano()
}

type answer struct {
	message       []byte
	offset, count int
	period        time.Duration
}

func (a answer) send(stream grpc.ServerStream) error {
	begun, beganMonotonic := time.Now(), monotonic()
	for i := 0; i < a.count; i++ {
		due := time.Duration(i) * a.period
		if wait := time.Until(begun.Add(due)); wait > 0 {
			time.Sleep(wait)
		}
		message := a.message
		if a.offset >= 0 {
			message = append([]byte(nil), a.message...)
			binary.LittleEndian.PutUint64(message[a.offset:], uint64(beganMonotonic+int64(due)))
		}
		if err := stream.SendMsg(&message); err != nil {
			return err
		}
	}
	return nil
}

func number(text string) int {
	value, err := strconv.Atoi(text)
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func main() {
	message, err := os.ReadFile(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	found := answer{message, -1, 1, 0}
	if len(os.Args) > 3 {
		found.offset, found.count = number(os.Args[3]), number(os.Args[4])
		found.period = time.Duration(number(os.Args[5])) * time.Millisecond
	}
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(grpc.ForceServerCodec(raw{}), grpc.MaxRecvMsgSize(1<<30), grpc.MaxSendMsgSize(1<<30),
		grpc.MaxConcurrentStreams(1<<20), grpc.UnknownServiceHandler(func(_ interface{}, stream grpc.ServerStream) error {
			var request []byte
			if err := stream.RecvMsg(&request); err != nil {
				return err
			}
			return found.send(stream)
		}))
	log.Fatal(server.Serve(listener))
}
