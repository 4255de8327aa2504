// Command embed embeds the texts of its arguments and prints, for each, what answered (run it
// twice: the second time it is the cache), a digest of the vector and its beginning.
//
// EMBERCACHE_ADDRESS says where the sidecar is, if not at 127.0.0.1:50551.
package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	embercache "embercache.io/go"
	"embercache.io/go/embercachev1"
)

func main() {
	log.SetFlags(0)
	if err := embed(os.Args[1:]); err != nil {
		log.Fatalln("embed:", err)
	}
}

func embed(texts []string) error {
	conn, err := embercache.Dial("")
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client := embercachev1.NewEmbedServiceClient(conn)
	response, err := client.Embed(ctx, &embercachev1.EmbedRequest{Inputs: embercache.Texts(texts...)})
	if err != nil {
		return err
	}
	vectors, err := embercache.Vectors(response)
	if err != nil {
		return err
	}
	for i, embedding := range response.GetEmbeddings() {
		tier := strings.ToLower(strings.TrimPrefix(embedding.GetTier().String(), "TIER_"))
		start := fmt.Sprintf("%.6f", vectors[i][:min(3, len(vectors[i]))])
		fmt.Printf("%s %x %s\n", tier, sha256.Sum256(embedding.GetVector()), strings.Trim(start, "[]"))
	}
	return nil
}
