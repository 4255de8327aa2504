package embercache_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"

	embercache "embercache.io/go"
)

func tokenFile(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// refusal is the error of Dial, which must be one.
func refusal(t *testing.T, address string, files embercache.Files) string {
	t.Helper()
	conn, err := embercache.Dial(address, files)
	if err == nil {
		conn.Close()
		t.Fatalf("%s is taken", address)
	}
	return err.Error()
}

func TestEveryCallCarriesTheTokenOverLoopbackAndUnixSocket(t *testing.T) {
	file := tokenFile(t, "a-token\n")
	for network, address := range map[string]string{
		"tcp":  "127.0.0.1:0",
		"unix": filepath.Join(t.TempDir(), "s"),
	} {
		one := &server{}
		address, _ = one.listen(t, network, address)
		if network == "unix" {
			address = "unix:" + address
		}
		if err := embed(t, dial(t, address, embercache.Files{Token: file})); err != nil {
			t.Error(err)
		}
		if shown := one.seen.Load().(metadata.MD).Get("authorization"); !slices.Equal(shown, []string{"Bearer a-token"}) {
			t.Errorf("%s: %q", network, shown)
		}
	}
}

func TestTheEnvironmentNamesTheFilesThatAreNotGiven(t *testing.T) {
	one := &server{}
	address, _ := one.listen(t, "tcp", "127.0.0.1:0")
	t.Setenv("EMBERCACHE_TOKEN_FILE", tokenFile(t, "of-environment"))
	for want, files := range map[string]embercache.Files{
		"Bearer of-environment": {},
		"Bearer given":          {Token: tokenFile(t, "given")},
	} {
		if err := embed(t, dial(t, address, files)); err != nil {
			t.Fatal(err)
		}
		if shown := one.seen.Load().(metadata.MD).Get("authorization"); !slices.Equal(shown, []string{want}) {
			t.Errorf("%q, not %q", shown, want)
		}
	}
	t.Setenv("EMBERCACHE_CERT_FILE", "/missing/cert")
	t.Setenv("EMBERCACHE_KEY_FILE", "/missing/key")
	if says := refusal(t, "tls://localhost:1", embercache.Files{}); !strings.Contains(says, "/missing/cert") {
		t.Error(says)
	}
	t.Setenv("EMBERCACHE_CA_FILE", "/missing/ca")
	if says := refusal(t, "tls://localhost:1", embercache.Files{}); !strings.Contains(says, "/missing/ca") {
		t.Error(says)
	}
}

func TestWithoutATokenCallsCarryNone(t *testing.T) {
	one := &server{}
	address, _ := one.listen(t, "tcp", "127.0.0.1:0")
	if err := embed(t, dial(t, address)); err != nil {
		t.Fatal(err)
	}
	if shown := one.seen.Load().(metadata.MD).Get("authorization"); shown != nil {
		t.Error(shown)
	}
}

func TestATokenIsSentWhereNobodyElseCanReadIt(t *testing.T) {
	file := tokenFile(t, "a-token")
	for _, address := range addresses(t, "private") {
		dial(t, address, embercache.Files{Token: file})
	}
	for _, address := range addresses(t, "public") {
		if says := refusal(t, address, embercache.Files{Token: file}); !strings.Contains(says, "write tls://HOST:PORT") {
			t.Errorf("%s: %s", address, says)
		}
	}
}

func TestFilesThatMakeNoSenseAreRefusedWithWhatIsWrong(t *testing.T) {
	const missing = "/missing/file"
	token, empty := tokenFile(t, "a-token"), tokenFile(t, " \n")
	for _, each := range []struct {
		address, want string
		files         embercache.Files
	}{
		{"unix:s", "the token file: open /missing/file: no such file", embercache.Files{Token: missing}},
		{"unix:s", "holds no token", embercache.Files{Token: empty}},
		{"unix:s", "holds no token", embercache.Files{Token: tokenFile(t, "é")}},
		{"unix:s", "holds no token", embercache.Files{Token: tokenFile(t, "a\x00b")}},
		{"unix:s", "for an address like tls://HOST:PORT", embercache.Files{CA: token}},
		{"localhost:1", "for an address like tls://HOST:PORT", embercache.Files{Cert: token, Key: token}},
		{"tls://a:1", "the CA file: open /missing/file: no such file", embercache.Files{CA: missing}},
		{"tls://a:1", "holds no certificate in PEM", embercache.Files{CA: token}},
		{"tls://a:1", "a certificate file and a key file, or neither", embercache.Files{Cert: token}},
		{"tls://a:1", "a certificate file and a key file, or neither", embercache.Files{Key: token}},
		{"tls://a:1", "the certificate file /missing/file", embercache.Files{Cert: missing, Key: token}},
		{"tls://a:1", "open /missing/file", embercache.Files{Cert: token, Key: missing}},
	} {
		if says := refusal(t, each.address, each.files); !strings.Contains(says, each.want) {
			t.Errorf("%q says nothing of %q", says, each.want)
		}
	}
}
