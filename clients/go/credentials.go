package embercache

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// rereadAfter is how long a token is shown before its file is read again.
const rereadAfter = 10 * time.Second

// Files name the files by which a client and a sidecar know each other. They are an option of
// [Dial]. A file that is not named is the one that the environment names: EMBERCACHE_TOKEN_FILE,
// EMBERCACHE_CA_FILE, EMBERCACHE_CERT_FILE and EMBERCACHE_KEY_FILE.
//
// Certificates are in PEM, and for addresses like "tls://HOST:PORT". They are read once: a
// connection that lives longer than its certificate has to be opened anew.
type Files struct {
	grpc.EmptyDialOption

	// Token holds a token, which every call carries; it is read again when it is older than ten
	// seconds. It is not sent to other machines without TLS.
	Token string
	// CA holds the authorities that the sidecar's certificate may be of, in place of the system's.
	CA string
	// Cert and Key hold the certificate that is shown to the sidecar, and its key.
	Cert, Key string
}

func (f Files) orOfEnvironment() Files {
	return Files{
		Token: cmp.Or(f.Token, os.Getenv("EMBERCACHE_TOKEN_FILE")),
		CA:    cmp.Or(f.CA, os.Getenv("EMBERCACHE_CA_FILE")),
		Cert:  cmp.Or(f.Cert, os.Getenv("EMBERCACHE_CERT_FILE")),
		Key:   cmp.Or(f.Key, os.Getenv("EMBERCACHE_KEY_FILE")),
	}
}

// credentials reads the files that are for that place.
func (f Files) credentials(where place) ([]grpc.DialOption, error) {
	transport, err := f.transport(where)
	if err != nil {
		return nil, fmt.Errorf("embercache: %w", err)
	}
	options := []grpc.DialOption{grpc.WithTransportCredentials(transport)}
	if f.Token == "" {
		return options, nil
	}
	if !where.private() {
		return nil, errors.New("embercache: a token must not cross a network unencrypted:" +
			" write tls://HOST:PORT, or leave the token file out")
	}
	token, err := newToken(f.Token, time.Now)
	if err != nil {
		return nil, fmt.Errorf("embercache: %w", err)
	}
	return append(options, grpc.WithPerRPCCredentials(token)), nil
}

func (f Files) transport(where place) (credentials.TransportCredentials, error) {
	if (f.Cert == "") != (f.Key == "") {
		return nil, errors.New("give a certificate file and a key file, or neither")
	}
	if !where.encrypted {
		if f.CA != "" || f.Cert != "" {
			return nil, errors.New("certificates are for an address like tls://HOST:PORT")
		}
		return insecure.NewCredentials(), nil
	}
	config := &tls.Config{}
	if f.CA != "" {
		pem, err := os.ReadFile(f.CA)
		if err != nil {
			return nil, fmt.Errorf("the CA file: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("the CA file %s holds no certificate in PEM", f.CA)
		}
	}
	if f.Cert != "" {
		certificate, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return nil, fmt.Errorf("the certificate file %s and its key file: %w", f.Cert, err)
		}
		config.Certificates = []tls.Certificate{certificate}
	}
	return credentials.NewTLS(config), nil
}

// token is what every call carries.
type token struct {
	file   string
	now    func() time.Time
	mutex  sync.Mutex
	value  string
	readAt time.Time
}

func newToken(file string, now func() time.Time) (*token, error) {
	value, err := readToken(file)
	return &token{file: file, now: now, value: value, readAt: now()}, err
}

func (t *token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if now := t.now(); now.Sub(t.readAt) > rereadAfter {
		t.readAt = now
		// While it is being replaced, the token that was read last will do.
		if value, err := readToken(t.file); err == nil {
			t.value = value
		}
	}
	return map[string]string{"authorization": "Bearer " + t.value}, nil
}

// RequireTransportSecurity is false: Unix sockets and this machine are private without, and Dial
// allows tokens nowhere else.
func (t *token) RequireTransportSecurity() bool {
	return false
}

func readToken(file string) (string, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("the token file: %w", err)
	}
	words := strings.Fields(string(content))
	if len(words) == 0 || strings.ContainsFunc(words[0], func(r rune) bool { return r < '!' || r > '~' }) {
		return "", fmt.Errorf("the token file %s holds no token", file)
	}
	return words[0], nil
}
