package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	_ "google.golang.org/grpc/health" // for balancing by health
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
)

// load calls without a pause until something else has ended; every call has to end well.
func load(ctx context.Context, connection *grpc.ClientConn, request []byte, meanwhile func() error) error {
	over, end := context.WithCancel(ctx)
	defer end()
	var group sync.WaitGroup
	ended := make(chan error, 8)
	for each := range 8 {
		path, request := embed, request
		if each%2 == 0 {
			path, request = probe+"Echo", []byte("a")
		}
		group.Add(1)
		go func() {
			defer group.Done()
			for over.Err() == nil {
				if _, err := unary(ctx, connection, path, request); err != nil {
					ended <- err
					return
				}
			}
		}()
	}
	err := meanwhile()
	end()
	group.Wait()
	close(ended)
	for each := range ended {
		err = errors.Join(err, each)
	}
	return err
}

// maxAge: the argument is a request of Embed. The connection is renewed several times.
func maxAge(ctx context.Context, connection *grpc.ClientConn, address string, arguments []string) error {
	request, err := hex.DecodeString(arguments[0])
	if err != nil {
		return err
	}
	return load(ctx, connection, request, func() error {
		for range 3 {
			witness, err := dial(address)
			if err != nil {
				return err
			}
			defer witness.Close()
			witness.Connect()
			for _, state := range []connectivity.State{connectivity.Ready, connectivity.Idle} {
				if err := reach(ctx, witness, state); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func reach(ctx context.Context, connection *grpc.ClientConn, wanted connectivity.State) error {
	for {
		state := connection.GetState()
		if state == wanted {
			return nil
		}
		if !connection.WaitForStateChange(ctx, state) {
			return fmt.Errorf("the connection stays %v", state)
		}
	}
}

// drain: behind the address of the server that ends, that of another, a request, and a name. Prints
// "ready" when that is to happen. Calls in progress end well, and no other fails.
func drain(ctx context.Context, connection *grpc.ClientConn, address string, arguments []string) error {
	request, err := hex.DecodeString(arguments[1])
	if err != nil {
		return err
	}
	both, err := dialBoth(address, arguments[0])
	if err != nil {
		return err
	}
	defer both.Close()
	call, err := open(ctx, connection, probe+"Chat")
	if err != nil {
		return err
	}
	if err := call.converse("before"); err != nil {
		return err
	}
	return load(ctx, both, request, func() error {
		fmt.Println("ready")
		// The connection is left when it goes away; the call on it goes on.
		if err := reach(ctx, connection, connectivity.Idle); err != nil {
			return err
		}
		return errors.Join(call.converse("after"), call.finish())
	})
}

// keepAlive: one connection without calls and one with a call that waits, of the name in the argument.
// Go pings every ten seconds at most, so it takes twice that.
func keepAlive(ctx context.Context, _ *grpc.ClientConn, address string, arguments []string) error {
	option := grpc.WithKeepaliveParams(
		keepalive.ClientParameters{Time: 10 * time.Second, Timeout: hangGuard, PermitWithoutStream: true},
	)
	idle, err := dial(address, option)
	if err != nil {
		return err
	}
	defer idle.Close()
	busy, err := dial(address, option)
	if err != nil {
		return err
	}
	defer busy.Close()
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { _, _ = unary(waiting, busy, probe+"Hold", []byte(arguments[0])) }()
	if err := until(ctx, idle, arguments[0], 1, 1); err != nil {
		return err
	}
	time.Sleep(22 * time.Second)
	for _, each := range []*grpc.ClientConn{idle, busy} {
		if state := each.GetState(); state != connectivity.Ready {
			return fmt.Errorf("the connection is %v", state)
		}
	}
	return until(ctx, idle, arguments[0], 1, 1)
}

// waitForReady: calls before the server is there; prints "waiting" then.
func waitForReady(ctx context.Context, connection *grpc.ClientConn, _ string, _ []string) error {
	if _, err := unary(ctx, connection, probe+"Echo", nil); err == nil {
		return errors.New("there is a server already")
	}
	fmt.Println("waiting")
	_, err := unary(ctx, connection, probe+"Echo", nil, grpc.WaitForReady(true))
	return err
}

// dialBoth connects to two servers and calls those that say that they serve, in turn.
func dialBoth(addresses ...string) (*grpc.ClientConn, error) {
	servers := manual.NewBuilderWithScheme("both")
	var state resolver.State
	for _, each := range addresses {
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: each}}})
	}
	servers.InitialState(state)
	return dial(
		"both:///servers", grpc.WithResolvers(servers), grpc.WithDefaultServiceConfig(
			`{"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}`,
		),
	)
}
