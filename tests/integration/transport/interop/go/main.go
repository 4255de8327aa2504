// A client in Go of the service of the tests: interop ADDRESS SCENARIO [ARGUMENT ...].
//
// It ends with 1, and says why, if something is not as it has to be.
package main

import (
	"context"
	"fmt"
	"os"
	"sort"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const hangGuard = 60 * time.Second

// A scenario gets a connection, where it leads, and the arguments.
type scenario func(ctx context.Context, connection *grpc.ClientConn, address string, arguments []string) error

var scenarios = map[string]scenario{
	"cancel":      cancelAtEachStage,
	"compression": compression,
	"deadline":    deadlines,
	"drain":       drain,
	"errors":      errorsWithMetadata,
	"half-close":  halfClose,
	"hits":        hits,
	"keepalive":   keepAlive,
	"large":       largeMessages,
	"many":        manyAtOnce,
	"max-age":     maxAge,
	"metadata":    metadataBothWays,
	"standard":    standardServices,
	"wait":        waitForReady,
}

func main() {
	if len(os.Args) < 3 || scenarios[os.Args[2]] == nil {
		names := make([]string, 0, len(scenarios))
		for name := range scenarios {
			names = append(names, name)
		}
		sort.Strings(names)
		fmt.Fprintf(os.Stderr, "usage: interop ADDRESS %s [ARGUMENT ...]\n", strings.Join(names, "|"))
		os.Exit(2)
	}
	if err := run(os.Args[1], scenarios[os.Args[2]], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(address string, each scenario, arguments []string) error {
	connection, err := dial(address)
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), hangGuard)
	defer cancel()
	return each(ctx, connection, address, arguments)
}

func dial(address string, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodec(raw{}), grpc.MaxCallRecvMsgSize(64<<20), grpc.MaxCallSendMsgSize(64<<20),
		),
		// What a scenario sees is what the server has said.
		grpc.WithDisableRetry(),
	}
	return grpc.NewClient(address, append(options, more...)...)
}
