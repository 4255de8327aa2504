// Command search stores a few documents and prints those nearest to the question of its
// arguments, best first.
//
// EMBERCACHE_ADDRESS says where the sidecar is, if not at 127.0.0.1:50551.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	embercache "embercache.io/go"
	"embercache.io/go/embercachev1"
)

const collection = "examples"

var documents = map[string]string{
	"ember":   "An ember is a piece of glowing coal.",
	"cache":   "A cache keeps answers so that they need not be computed again.",
	"sidecar": "The sidecar runs beside the application in its pod.",
}

func main() {
	log.SetFlags(0)
	if err := search(strings.Join(os.Args[1:], " ")); err != nil {
		log.Fatalln("search:", err)
	}
}

func search(question string) error {
	conn, err := embercache.Dial("")
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client := embercachev1.NewSearchServiceClient(conn)
	if err := store(ctx, client); err != nil {
		return err
	}
	response, err := client.Search(ctx, &embercachev1.SearchRequest{
		Query:      &embercachev1.SearchRequest_Text{Text: question},
		Collection: collection,
		TopK:       2,
	})
	if err != nil {
		return err
	}
	for _, result := range response.GetResults() {
		fmt.Printf("%.4f %s: %s\n", result.GetScore(), result.GetId(), result.GetContent())
	}
	return nil
}

func store(ctx context.Context, client embercachev1.SearchServiceClient) error {
	request := &embercachev1.UpsertRequest{Collection: collection}
	for id, content := range documents {
		request.Documents = append(request.Documents, &embercachev1.Document{
			Id:     id,
			Chunks: []*embercachev1.Chunk{{Content: content}},
		})
	}
	response, err := client.Upsert(ctx, request)
	if err != nil {
		return err
	}
	for i, document := range response.GetDocuments() {
		if e := document.GetError(); e != nil {
			return fmt.Errorf("document %s is not stored: %s", request.Documents[i].GetId(), e.GetMessage())
		}
	}
	return nil
}
