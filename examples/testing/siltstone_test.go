// Package siltstonetest starts a Siltstone server of its own for a Go test.
//
// It needs the program siltstone on the path, or its place in SILTSTONE_BINARY. All data is gone when the test ends, and the server ends
// with the test run, however that ends: its standard input closes.
package siltstonetest

import (
	"bufio"
	"cmp"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Server starts a server; the map has where gRPC and HTTP answer ("grpc", "http") and where the data lies ("data").
func Server(t *testing.T, settings ...string) map[string]string {
	t.Helper()
	arguments := []string{"serve", "--ephemeral", "--exit-with-parent", "--grpc-listen=127.0.0.1:0", "--http-listen=127.0.0.1:0"}
	for _, setting := range settings {
		arguments = append(arguments, "--set", setting)
	}
	server := exec.Command(cmp.Or(os.Getenv("SILTSTONE_BINARY"), "siltstone"), arguments...)
	stdin, err := server.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	// "ready grpc=HOST:PORT http=HOST:PORT data=DIRECTORY": nothing, where it did not start.
	ready, err := bufio.NewReader(stdout).ReadString('\n')
	t.Cleanup(func() {
		stdin.Close()
		if err := server.Wait(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal("siltstone did not start: ", err)
	}
	fields := map[string]string{}
	for _, field := range strings.Fields(ready)[1:] {
		name, value, _ := strings.Cut(field, "=")
		fields[name] = value
	}
	return fields
}

func TestItIsReady(t *testing.T) {
	server := Server(t, "topics.auto_create=true")
	answer, err := http.Get("http://" + server["http"] + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Fatal(answer.Status)
	}
	if _, err := os.Stat(server["data"]); err != nil {
		t.Fatal(err)
	}
}
