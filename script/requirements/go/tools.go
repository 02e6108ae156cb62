//go:build tools

// Package tools names the programs that script/bootstrap builds for the tests of clients, so that go.mod keeps them.
package tools

import (
	_ "connectrpc.com/connect"
	_ "github.com/fullstorydev/grpcurl/cmd/grpcurl"
	_ "google.golang.org/grpc"
	_ "google.golang.org/grpc/cmd/protoc-gen-go-grpc"
	_ "google.golang.org/grpc/interop/client"
	_ "google.golang.org/protobuf/cmd/protoc-gen-go"
)
