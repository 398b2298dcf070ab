//! Request lines: RFC 9112, sections 2.2, 2.3 and 3.

use super::{Row, closes, stays};

fn line(line: &str) -> String {
    format!("{line}\r\nHost: h\r\n\r\n")
}

fn target(len: usize) -> String {
    line(&format!("GET /{} HTTP/1.1", "x".repeat(len - 1)))
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = forms();
    rows.extend(versions());
    rows.extend(malformed());
    rows
}

fn forms() -> Vec<Row> {
    let put = "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n";
    vec![
        stays("3: method, target, version", line("GET / HTTP/1.1"), &[200]),
        stays("9110 9.3.2: HEAD is GET without content", line("HEAD / HTTP/1.1"), &[200]),
        stays("9110 9.3.7: OPTIONS", line("OPTIONS / HTTP/1.1"), &[204]),
        stays("3.2.4: asterisk-form for OPTIONS", line("OPTIONS * HTTP/1.1"), &[204]),
        stays("3.2.4: asterisk-form for nothing else", line("GET * HTTP/1.1"), &[400]),
        stays(
            "3.2.3: authority-form is for CONNECT, which is not done",
            line("CONNECT h:80 HTTP/1.1"),
            &[400],
        ),
        stays("3.2.2: absolute-form", line("GET http://h/ HTTP/1.1"), &[200]),
        stays("3.2.2: absolute-form without a path", line("GET http://h HTTP/1.1"), &[200]),
        stays("3.2.2: absolute-form with a query", line("GET http://h?x HTTP/1.1"), &[200]),
        stays("9110 4.2.3: the scheme in any case", line("GET HTTP://h/ HTTP/1.1"), &[200]),
        stays("3.2.2: the scheme of something else", line("GET ftp://h/ HTTP/1.1"), &[400]),
        stays(
            "9110 4.2.4: user information is refused",
            line("GET http://u:p@h/ HTTP/1.1"),
            &[400],
        ),
        stays("3.2: a target without a slash", line("GET index.html HTTP/1.1"), &[400]),
        stays("3.2.1: a query is part of the target", line("GET /?a=b HTTP/1.1"), &[200]),
        stays("9110 15.5.5: an unknown path", line("GET /nothing HTTP/1.1"), &[404]),
        stays("9110 15.5.5: a name that is missing", line("GET /locks/ HTTP/1.1"), &[404]),
        stays("9110 15.5.5: likewise", line("GET /resources/ HTTP/1.1"), &[404]),
        stays("9110 15.5.5: in the middle, too", line("GET /locks//x HTTP/1.1"), &[404]),
        stays("9110 15.5.6: an unknown method on a known path", line("BREW / HTTP/1.1"), &[405]),
        stays("9110 9.1: methods are case-sensitive", line("get / HTTP/1.1"), &[405]),
        stays(
            "9110 5.6.2: any token can be a method",
            line("M-SEARCH!#$%&'*+.^_`|~ / HTTP/1.1"),
            &[405],
        ),
        stays("9110 9.3.8: TRACE is not done", line("TRACE / HTTP/1.1"), &[405]),
        stays("9110 15.5.6: PUT is not done", put, &[405]),
        stays("3: 8 KiB of target are taken", target(8192), &[404]),
        closes("3: more gets 414", target(8193), &[414]),
        closes(
            "3: much more gets 414, without a line end",
            format!("GET /{}", "x".repeat(9_000)),
            &[414],
        ),
        stays(
            "2.2: an empty line before a request is skipped",
            format!("\r\n{}", line("GET / HTTP/1.1")),
            &[200],
        ),
        stays("2.2: and some more", format!("\r\n\r\n\r\n{}", line("GET / HTTP/1.1")), &[200]),
        stays(
            "2.2: also between requests",
            format!("{}\r\n{}", line("GET / HTTP/1.1"), line("GET /nothing HTTP/1.1")),
            &[200, 404],
        ),
    ]
}

fn versions() -> Vec<Row> {
    vec![
        closes("2.3: HTTP/1.0", line("GET / HTTP/1.0"), &[200]),
        stays("9110 2.5: a higher minor version is served as 1.1", line("GET / HTTP/1.2"), &[200]),
        stays("9110 2.5: the highest minor version", line("GET / HTTP/1.9"), &[200]),
        closes("9110 15.6.6: HTTP/2.0", line("GET / HTTP/2.0"), &[505]),
        closes("9110 15.6.6: HTTP/3.0", line("GET / HTTP/3.0"), &[505]),
        closes("9110 15.6.6: HTTP/0.9", line("GET / HTTP/0.9"), &[505]),
        closes("9113 3.4: the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[505]),
        closes("2.3: the name of the protocol is case-sensitive", line("GET / http/1.1"), &[400]),
        closes("2.3: one digit before the dot", line("GET / HTTP/11.1"), &[400]),
        closes("2.3: one digit after the dot", line("GET / HTTP/1.10"), &[400]),
        closes("2.3: both digits", line("GET / HTTP/1"), &[400]),
        closes("2.3: a dot", line("GET / HTTP/1,1"), &[400]),
        closes("2.3: digits", line("GET / HTTP/1.x"), &[400]),
        closes("2.3: a slash", line("GET / HTTP 1.1"), &[400]),
        closes("2.3: another protocol", line("GET / RTSP/1.0"), &[400]),
        closes("2.3: no version, as in HTTP/0.9", "GET /\r\n", &[400]),
        closes("2.3: no version, with fields", line("GET /"), &[400]),
    ]
}

fn malformed() -> Vec<Row> {
    vec![
        closes("3: only a method", line("GET"), &[400]),
        closes("3: no method", line(" / HTTP/1.1"), &[400]),
        closes("3: no target", line("GET HTTP/1.1"), &[400]),
        closes("3: an empty target", line("GET  HTTP/1.1"), &[400]),
        closes("3: two blanks", line("GET  / HTTP/1.1"), &[400]),
        closes("3: a blank at the end", line("GET / HTTP/1.1 "), &[400]),
        closes("3: a blank at the start", line(" GET / HTTP/1.1"), &[400]),
        closes("3: a tab between", line("GET\t/ HTTP/1.1"), &[400]),
        closes("3.2: a blank in the target", line("GET /a b HTTP/1.1"), &[400]),
        closes("3.2: a fragment in the target", line("GET /#a HTTP/1.1"), &[400]),
        closes("3.2: a letter that is not ASCII", line("GET /é HTTP/1.1"), &[400]),
        closes("3.2: a byte that is not UTF-8", b"GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n", &[400]),
        closes("3.2: a control character", line("GET /\x01 HTTP/1.1"), &[400]),
        closes("3.2: NUL", line("GET /\0 HTTP/1.1"), &[400]),
        closes("3.2: DEL", line("GET /\x7f HTTP/1.1"), &[400]),
        closes("9110 5.6.2: a method that is no token", line("GE(T / HTTP/1.1"), &[400]),
        closes("9110 5.6.2: a method with a colon", line("Host: h HTTP/1.1"), &[400]),
        closes("2.2: a bare LF ends no line", "GET / HTTP/1.1\nHost: h\n\n", &[400]),
        closes(
            "2.2: a bare LF after the request line alone",
            "GET / HTTP/1.1\nHost: h\r\n\r\n",
            &[400],
        ),
        closes("2.2: a bare CR is no blank", line("GET /\rHTTP/1.1"), &[400]),
        closes("2.2: a bare CR at the end", line("GET / HTTP/1.1\r"), &[400]),
        closes("2.2: a line that is no request", "hello\r\n", &[400]),
        closes("the start of TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", &[400]),
        closes("a byte that begins no method", "{", &[400]),
        closes("an answer", "HTTP/1.1 200 OK\r\n", &[400]),
    ]
}
