// Command app stands for the application of a pod: it embeds texts at a steady rate until SIGTERM,
// and writes a line of JSON for every call that ends.
//
// A quarter of the texts are new, a quarter are those that another app asked for a little earlier,
// and the others are always the same few. After SIGTERM it goes on for a while (-linger), as an
// app does that still gets requests, and then lets its calls end.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"

	embercache "embercache.io/go"
	"embercache.io/go/embercachev1"
)

const (
	sameTexts = 20
	// How far an app is behind the other with the texts that both ask for.
	behind      = 20
	longestCall = 20 * time.Second
)

var (
	name    = flag.String("name", "a", "part of the new texts")
	peer    = flag.String("peer", "b", "name of the other app")
	rate    = flag.Float64("rate", 40, "calls begun in a second")
	retries = flag.Bool("retries", true, "repeat calls that fail")
	linger  = flag.Duration("linger", 0, "how long calls are still begun after SIGTERM")
)

// call is what is written of a call: the text, what answered, SHA-256 of the vector, or the error.
type call struct {
	Text   string `json:"text"`
	Tier   string `json:"tier,omitempty"`
	Digest string `json:"digest,omitempty"`
	Error  string `json:"error,omitempty"`
}

func main() {
	flag.Parse()
	log.SetFlags(0)
	conn, err := embercache.Dial("", options()...)
	if err != nil {
		log.Fatalln("app:", err)
	}
	defer conn.Close()
	client := embercachev1.NewEmbedServiceClient(conn)

	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	calls := make(chan call)
	go func() {
		run(client, calls, ended)
		close(calls)
	}()
	lines := json.NewEncoder(os.Stdout)
	for each := range calls {
		if err := lines.Encode(each); err != nil {
			log.Fatalln("app:", err)
		}
	}
}

func options() []grpc.DialOption {
	if *retries {
		return nil
	}
	return []grpc.DialOption{grpc.WithDisableRetry()}
}

// run begins calls at the rate, however long they take, and returns when the last has ended.
func run(client embercachev1.EmbedServiceClient, calls chan<- call, ended <-chan os.Signal) {
	var underWay sync.WaitGroup
	defer underWay.Wait()
	ticks := time.NewTicker(time.Duration(float64(time.Second) / *rate))
	defer ticks.Stop()
	var last <-chan time.Time
	for number := 0; ; number++ {
		underWay.Add(1)
		go func() {
			defer underWay.Done()
			calls <- embed(client, text(number))
		}()
		select {
		case <-ticks.C:
		case <-last:
			return
		case <-ended:
			last = time.After(*linger)
		}
	}
}

func text(number int) string {
	turn := number / 4
	switch number % 4 {
	case 0:
		return fmt.Sprintf("text %d, which app %s is the first to ask for", turn, *name)
	case 1:
		return fmt.Sprintf("text %d, which app %s is the first to ask for", max(0, turn-behind), *peer)
	default:
		return fmt.Sprintf("text %d of those that are always asked for", number%sameTexts)
	}
}

func embed(client embercachev1.EmbedServiceClient, text string) call {
	ctx, cancel := context.WithTimeout(context.Background(), longestCall)
	defer cancel()
	request := &embercachev1.EmbedRequest{Inputs: embercache.Texts(text)}
	response, err := client.Embed(ctx, request)
	if err == nil {
		_, err = embercache.Vectors(response)
	}
	if err != nil {
		return call{Text: text, Error: err.Error()}
	}
	embedding := response.GetEmbeddings()[0]
	return call{
		Text:   text,
		Tier:   strings.ToLower(strings.TrimPrefix(embedding.GetTier().String(), "TIER_")),
		Digest: fmt.Sprintf("%x", sha256.Sum256(embedding.GetVector())),
	}
}
