package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
)

// cancelAtEachStage: before the message, while it waits, within a stream.
func cancelAtEachStage(ctx context.Context, connection *grpc.ClientConn, _ string, arguments []string) error {
	name := arguments[0]
	for range 20 {
		early, cancel := context.WithCancel(ctx)
		_, err := open(early, connection, embed)
		cancel()
		if err != nil {
			return err
		}
	}
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := unary(waiting, connection, probe+"Hold", []byte(name))
		ended <- err
	}()
	if err := until(ctx, connection, name, 1, 1); err != nil {
		return err
	}
	cancel()
	if err := want(<-ended, codes.Canceled); err != nil {
		return err
	}
	if err := until(ctx, connection, name, 1, 0); err != nil {
		return err
	}
	streaming, cancel := context.WithCancel(ctx)
	defer cancel()
	call, err := open(streaming, connection, probe+"Pieces")
	if err != nil {
		return err
	}
	asked := fmt.Sprintf(`{"name": "s%s", "count": 1000000000, "size": 1000}`, name)
	if err := errors.Join(call.send([]byte(asked)), call.CloseSend()); err != nil {
		return err
	}
	if _, err := call.receive(); err != nil {
		return err
	}
	cancel()
	return until(ctx, connection, "s"+name, 1, 0)
}

func deadlines(ctx context.Context, connection *grpc.ClientConn, _ string, arguments []string) error {
	name := arguments[0]
	over, cancel := context.WithTimeout(ctx, -time.Second)
	defer cancel()
	_, err := unary(over, connection, embed, nil)
	if err := want(err, codes.DeadlineExceeded); err != nil {
		return err
	}
	soon, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	_, err = unary(soon, connection, probe+"Hold", []byte(name))
	if err := want(err, codes.DeadlineExceeded); err != nil {
		return err
	}
	for {
		_, running, err := counts(ctx, connection, name)
		if err != nil || running == 0 {
			return err
		}
	}
}

func manyAtOnce(ctx context.Context, connection *grpc.ClientConn, _ string, arguments []string) error {
	name := arguments[0]
	if err := atOnce(4000, func(number int) error {
		said := fmt.Sprint(number)
		answer, err := unary(ctx, connection, probe+"Echo", []byte(said))
		if err == nil && string(answer) != said {
			err = fmt.Errorf("said %q, heard %q", said, answer)
		}
		return err
	}); err != nil {
		return err
	}
	calls := make([]stream, 1000)
	named := metadata.AppendToOutgoingContext(ctx, "name", name)
	if err := atOnce(len(calls), func(number int) (err error) {
		if calls[number], err = open(named, connection, probe+"Chat"); err != nil {
			return err
		}
		return calls[number].converse(fmt.Sprint(number))
	}); err != nil {
		return err
	}
	if err := until(ctx, connection, name, len(calls), len(calls)); err != nil {
		return err
	}
	return atOnce(len(calls), func(number int) error { return calls[number].finish() })
}

func atOnce(count int, call func(number int) error) error {
	ended := make(chan error, count)
	for number := range count {
		go func() { ended <- call(number) }()
	}
	var all error
	for range count {
		all = errors.Join(all, <-ended)
	}
	return all
}

func standardServices(ctx context.Context, connection *grpc.ClientConn, address string, _ []string) error {
	plain, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer plain.Close()
	health := healthpb.NewHealthClient(plain)
	answer, err := health.Check(ctx, &healthpb.HealthCheckRequest{})
	if err != nil || answer.Status != healthpb.HealthCheckResponse_SERVING {
		return fmt.Errorf("health is %v: %w", answer, err)
	}
	watch, err := health.Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		return err
	}
	if told, err := watch.Recv(); err != nil || told.Status != healthpb.HealthCheckResponse_SERVING {
		return fmt.Errorf("health is told as %v: %w", told, err)
	}
	info, err := reflectionpb.NewServerReflectionClient(plain).ServerReflectionInfo(ctx)
	if err != nil {
		return err
	}
	ask := &reflectionpb.ServerReflectionRequest{
		MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{},
	}
	if err := info.Send(ask); err != nil {
		return err
	}
	listed, err := info.Recv()
	if err != nil || len(listed.GetListServicesResponse().GetService()) < 4 {
		return fmt.Errorf("the services are %v: %w", listed, err)
	}
	_, err = unary(ctx, connection, "/none/None", nil)
	return want(err, codes.Unimplemented)
}
