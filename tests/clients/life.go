// The life of a lock with Go's net/http: life.go URL.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

var base = os.Args[1]

func call(method, path, body string, timeout time.Duration) (int, http.Header, string, error) {
	request, err := http.NewRequest(method, base+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, "", err
	}
	answer, err := (&http.Client{Timeout: timeout}).Do(request)
	if err != nil {
		return 0, nil, "", err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	return answer.StatusCode, answer.Header, string(content), err
}

func fail(format string, values ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", values...)
	os.Exit(1)
}

func expect(status int, method, path, body string) (http.Header, map[string]any) {
	found, header, content, err := call(method, path, body, time.Minute)
	if err != nil || found != status {
		fail("%s %s: %d in place of %d: %s %v", method, path, found, status, content, err)
	}
	var parsed map[string]any
	json.Unmarshal([]byte(content), &parsed)
	return header, parsed
}

func lock(wait, lifetime float64) string {
	return fmt.Sprintf(`{"title":"Go","wait":%g,"lifetime":%g}`, wait, lifetime)
}

func main() {
	expect(201, "POST", "/locks/life", lock(0, 1))
	expect(408, "POST", "/locks/life", lock(0.2, 60))
	header, granted := expect(201, "POST", "/locks/life", lock(30, 60))
	location, err := url.Parse(header.Get("Location"))
	if err != nil || granted["active"] != true {
		fail("granted: %v %v", granted, err)
	}
	_, renewed := expect(200, "PATCH", location.Path, `{"lifetime":30}`)
	if renewed["lifetime"] != 30.0 {
		fail("renewed: %v", renewed)
	}
	expect(200, "GET", location.Path, "")
	if _, _, _, err := call("POST", "/locks/life", lock(30, 60), 500*time.Millisecond); err == nil {
		fail("there was no time-out")
	}
	expect(204, "DELETE", location.Path, "")
	expect(404, "DELETE", location.Path, "")
	expect(413, "POST", "/locks/life", strings.Repeat(" ", 70_000))
	for n := 0; n < 100; n++ {
		expect(200, "GET", "/", "")
	}
}
