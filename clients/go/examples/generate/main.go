// Command generate prints the answer to the prompt of its arguments piece by piece, as it comes,
// and then what answered.
//
// EMBERCACHE_ADDRESS says where the sidecar is, if not at 127.0.0.1:50551.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	embercache "embercache.io/go"
	"embercache.io/go/embercachev1"
)

func main() {
	log.SetFlags(0)
	if err := generate(strings.Join(os.Args[1:], " ")); err != nil {
		log.Fatalln("generate:", err)
	}
}

func generate(prompt string) error {
	conn, err := embercache.Dial("")
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel() // a stream that is left early ends the generation
	stream, err := embercachev1.NewGenerateServiceClient(conn).GenerateStream(ctx, &embercachev1.GenerateRequest{
		Prompt:   &embercachev1.GenerateRequest_Text{Text: prompt},
		Sampling: &embercachev1.Sampling{MaxTokens: proto.Uint32(16)},
	})
	if err != nil {
		return err
	}
	var summary *embercachev1.GenerateSummary
	for {
		piece, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		fmt.Print(piece.GetText())
		summary = piece.GetSummary()
	}
	fmt.Println()
	if summary == nil {
		return errors.New("the stream was cut short")
	}
	fmt.Printf("%v %v\n", summary.GetTier(), summary.GetFinishReason())
	return nil
}
