package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	probe = "/interop.Probe/"
	embed = "/embercache.v1.EmbedService/Embed"
)

// raw leaves messages as they are.
type raw struct{}

func (raw) Marshal(value any) ([]byte, error) { return *value.(*[]byte), nil }

func (raw) Unmarshal(data []byte, value any) error {
	*value.(*[]byte) = append([]byte(nil), data...)
	return nil
}

func (raw) Name() string { return "proto" }

func unary(
	ctx context.Context, connection *grpc.ClientConn, path string, request []byte, options ...grpc.CallOption,
) ([]byte, error) {
	var answer []byte
	err := connection.Invoke(ctx, path, &request, &answer, options...)
	return answer, err
}

var bothWays = &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}

type stream struct{ grpc.ClientStream }

func open(
	ctx context.Context, connection *grpc.ClientConn, path string, options ...grpc.CallOption,
) (stream, error) {
	made, err := connection.NewStream(ctx, bothWays, path, options...)
	return stream{made}, err
}

func (s stream) send(message []byte) error { return s.SendMsg(&message) }

func (s stream) receive() ([]byte, error) {
	var message []byte
	err := s.RecvMsg(&message)
	return message, err
}

// converse sends a message and expects it back.
func (s stream) converse(said string) error {
	if err := s.send([]byte(said)); err != nil {
		return err
	}
	answer, err := s.receive()
	if err == nil && string(answer) != said {
		err = fmt.Errorf("said %q, heard %q", said, answer)
	}
	return err
}

// counts tells how many calls of a name have begun, and how many of them have not ended.
func counts(ctx context.Context, connection *grpc.ClientConn, name string) (started, running int, err error) {
	answer, err := unary(ctx, connection, probe+"Counts", []byte(name))
	if err != nil {
		return 0, 0, err
	}
	var numbers [2]int
	err = json.Unmarshal(answer, &numbers)
	return numbers[0], numbers[1], err
}

// until waits until so many calls of a name have begun, and so many have not ended.
func until(ctx context.Context, connection *grpc.ClientConn, name string, started, running int) error {
	for {
		began, runs, err := counts(ctx, connection, name)
		if err != nil {
			return fmt.Errorf("%d and %d calls of %s: %w", began, runs, name, err)
		}
		if began == started && runs == running {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func want(err error, code codes.Code) error {
	if status.Code(err) != code {
		return fmt.Errorf("ended with %v, not with %v", err, code)
	}
	return nil
}
