package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func largeMessages(ctx context.Context, connection *grpc.ClientConn, _ string, _ []string) error {
	for _, size := range []int{0, 1<<14 - 5, 1 << 16, 16 << 20, 32 << 20} {
		sent := bytes.Repeat([]byte("a"), size)
		answer, err := unary(ctx, connection, probe+"Echo", sent)
		if err != nil {
			return err
		}
		if !bytes.Equal(answer, sent) {
			return fmt.Errorf("%d bytes came back as %d", size, len(answer))
		}
	}
	_, err := unary(ctx, connection, probe+"Echo", make([]byte, 32<<20+1))
	return want(err, codes.ResourceExhausted)
}

// hits: the argument is a request in hexadecimal digits; prints the answers likewise.
func hits(ctx context.Context, connection *grpc.ClientConn, _ string, arguments []string) error {
	request, err := hex.DecodeString(arguments[0])
	if err != nil {
		return err
	}
	for range 4 {
		answer, err := unary(ctx, connection, embed, request)
		if err != nil {
			return err
		}
		fmt.Println(hex.EncodeToString(answer))
	}
	return nil
}

func compression(ctx context.Context, connection *grpc.ClientConn, _ string, _ []string) error {
	sent := bytes.Repeat([]byte("abcd"), 25_000)
	for _, back := range []string{"gzip", "identity"} {
		with := metadata.AppendToOutgoingContext(ctx, "compress", back)
		for _, options := range [][]grpc.CallOption{nil, {grpc.UseCompressor(gzip.Name)}} {
			answer, err := unary(with, connection, probe+"Echo", sent, options...)
			if err != nil {
				return err
			}
			if !bytes.Equal(answer, sent) {
				return errors.New("another message came back")
			}
		}
	}
	return nil
}

func metadataBothWays(ctx context.Context, connection *grpc.ClientConn, _ string, _ []string) error {
	all := make([]byte, 256)
	for each := range all {
		all[each] = byte(each)
	}
	sent := []string{
		"initial-a", "1", "initial-a", "2", "initial-data-bin", string(all),
		"trailing-a", "3", "trailing-a", "1", "trailing-data-bin", string(all), "trailing-data-bin", "",
	}
	var header, trailer metadata.MD
	ctx = metadata.AppendToOutgoingContext(ctx, sent...)
	if _, err := unary(ctx, connection, probe+"Echo", nil, grpc.Header(&header), grpc.Trailer(&trailer)); err != nil {
		return err
	}
	for _, each := range []struct {
		name   string
		came   metadata.MD
		wanted []string
	}{
		{"initial-a", header, []string{"1", "2"}},
		{"initial-data-bin", header, []string{string(all)}},
		{"trailing-a", trailer, []string{"3", "1"}},
		{"trailing-data-bin", trailer, []string{string(all), ""}},
	} {
		if !slices.Equal(each.came.Get(each.name), each.wanted) {
			return fmt.Errorf("%s is %q, not %q", each.name, each.came.Get(each.name), each.wanted)
		}
	}
	return nil
}

func errorsWithMetadata(ctx context.Context, connection *grpc.ClientConn, _ string, _ []string) error {
	said := "why, in 100 % of cases: Zażółć 日本語 👩🏽‍🚀\n" + strings.Repeat("x", 1000)
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		with := metadata.AppendToOutgoingContext(
			ctx, "code", fmt.Sprint(int(code)), "grpc-retry-pushback-ms", "1234", "trailing-bin", "\x00\xff",
		)
		var trailer metadata.MD
		_, err := unary(with, connection, probe+"Fail", []byte(said), grpc.Trailer(&trailer))
		if err := want(err, code); err != nil {
			return err
		}
		if status.Convert(err).Message() != said {
			return fmt.Errorf("the message of %v became %q", code, status.Convert(err).Message())
		}
		pushback, data := trailer.Get("grpc-retry-pushback-ms"), trailer.Get("trailing-bin")
		if !slices.Equal(pushback, []string{"1234"}) || !slices.Equal(data, []string{"\x00\xff"}) {
			return fmt.Errorf("the trailers of %v are %v", code, trailer)
		}
	}
	call, err := open(metadata.AppendToOutgoingContext(ctx, "code", "9"), connection, probe+"FailAfter")
	if err != nil {
		return err
	}
	if err := call.converse("first"); err != nil {
		return err
	}
	_, err = call.receive()
	return want(err, codes.FailedPrecondition)
}

func halfClose(ctx context.Context, connection *grpc.ClientConn, _ string, _ []string) error {
	call, err := open(ctx, connection, probe+"Chat")
	if err != nil {
		return err
	}
	if err := call.converse("hello"); err != nil {
		return err
	}
	if err := call.finish(); err != nil {
		return err
	}
	early, err := open(ctx, connection, probe+"EndEarly")
	if err != nil {
		return err
	}
	if err := early.converse("first"); err != nil {
		return err
	}
	if _, err := early.receive(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("ended early with %v", err)
	}
	return nil
}

// finish says the last to a conversation, and expects three answers behind it.
func (s stream) finish() error {
	if err := s.CloseSend(); err != nil {
		return err
	}
	for each := range 3 {
		answer, err := s.receive()
		if wanted := fmt.Sprintf("after the end: %d", each); err != nil || string(answer) != wanted {
			return fmt.Errorf("heard %q and %v, not %q", answer, err, wanted)
		}
	}
	if _, err := s.receive(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("ended with %v", err)
	}
	return nil
}
