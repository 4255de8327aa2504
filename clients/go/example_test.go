//go:build sidecar

package embercache_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"google.golang.org/grpc"

	embercache "embercache.io/go"
	"embercache.io/go/embercachev1"
)

func Example() {
	conn, err := embercache.Dial("") // EMBERCACHE_ADDRESS, else 127.0.0.1:50551
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	client := embercachev1.NewEmbedServiceClient(conn)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	response, err := client.Embed(ctx, &embercachev1.EmbedRequest{
		Inputs: embercache.Texts("a text", "another"),
	})
	if err != nil {
		log.Fatal(err)
	}
	vectors, err := embercache.Vectors(response) // a []float32 for each
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(vectors), len(vectors[0]))
	// Output: 2 384
}

func Example_waiting() {
	conn, err := embercache.Dial("")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	client := embercachev1.NewEmbedServiceClient(conn)
	request := &embercachev1.EmbedRequest{Inputs: embercache.Texts("a text")}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	response, err := client.Embed(ctx, request, grpc.WaitForReady(true))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(response.GetEmbeddings()))
	// Output: 1
}

// The files are read by Dial, so this one is only compiled.
func Example_tls() {
	conn, err := embercache.Dial("tls://sidecar.example:50551", embercache.Files{
		Token: "/run/secrets/embercache/token",
		CA:    "/run/secrets/embercache/ca.crt",
	})
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
}
