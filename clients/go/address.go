package embercache

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// DefaultAddress is where a sidecar listens unless it is told otherwise.
const DefaultAddress = "127.0.0.1:50551"

var (
	hostAndPort = regexp.MustCompile(`^(?:\[[0-9A-Fa-f:.]+\]|[^\s:/?#%@\[\]]+):([0-9]{1,5})$`)
	socket      = regexp.MustCompile(`(?s)^unix:(//)?(/?[^/].*)$`)
)

// place is where a sidecar is.
type place struct {
	target    string // as gRPC takes it
	encrypted bool
}

// find takes the address given, else that of the environment, else the default.
func find(address string) (place, error) {
	source := "the address"
	if address == "" {
		address, source = os.Getenv("EMBERCACHE_ADDRESS"), "EMBERCACHE_ADDRESS"
	}
	if address == "" {
		address = DefaultAddress
	}
	host, encrypted := strings.CutPrefix(address, "tls://")
	if match := hostAndPort.FindStringSubmatch(host); match != nil {
		if port, _ := strconv.Atoi(match[1]); port > 0 && port < 1<<16 {
			return place{host, encrypted}, nil
		}
	}
	match := socket.FindStringSubmatch(address)
	if match == nil || match[1] != "" && match[2][0] != '/' {
		return place{}, fmt.Errorf(
			"embercache: %s is %q; write HOST:PORT (1 to 65535), tls://HOST:PORT for TLS,"+
				" unix:///absolute/path or unix:path", source, address)
	}
	path, err := filepath.Abs(match[2])
	if err != nil {
		return place{}, fmt.Errorf("embercache: %s is %q: %w", source, address, err)
	}
	// gRPC takes it for a URL, in which some characters of a path mean something else.
	return place{target: (&url.URL{Scheme: "unix", Path: path}).String()}, nil
}

// private tells whether nobody else can read what is sent there.
func (p place) private() bool {
	if p.encrypted || strings.HasPrefix(p.target, "unix:") {
		return true
	}
	host, _, _ := net.SplitHostPort(p.target)
	ip, _ := netip.ParseAddr(host)
	return host == "localhost" || ip.IsLoopback()
}
