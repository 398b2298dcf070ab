//! Header fields: RFC 9112, section 5; RFC 9110, sections 5 and 7.2.

use super::{Row, closes, get, stays};

fn fields(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\n{fields}\r\n")
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = syntax();
    rows.extend(sizes());
    rows.extend(host());
    rows
}

fn syntax() -> Vec<Row> {
    vec![
        stays("9110 5.1: names in any case", fields("hOsT: h\r\n"), &[200]),
        stays("5: no blank after the colon", fields("Host:h\r\n"), &[200]),
        stays("5: blanks around a value", fields("Host: \t h \t \r\n"), &[200]),
        stays("5: an empty value", get("X:\r\n"), &[200]),
        stays("9110 5.5: a tab in a value", get("X: a\tb\r\n"), &[200]),
        stays("9110 5.5: a letter that is not ASCII in a value", get("X: é\r\n"), &[200]),
        stays("9110 5.6.2: any token can be a name", get("a!#$%&'*+-.^_`|~9: x\r\n"), &[200]),
        stays("9110 5.3: a field may come again", get("X: a\r\nX: b\r\n"), &[200]),
        closes("5.1: a blank before the colon", get("X : a\r\n"), &[400]),
        closes("5.1: a tab before the colon", get("X\t: a\r\n"), &[400]),
        closes("5.1: a blank before the colon of a length", get("Content-Length : 5\r\n"), &[400]),
        closes("5: a blank in a name", get("X Y: a\r\n"), &[400]),
        closes("5: an empty name", get(": a\r\n"), &[400]),
        closes("5: no colon", get("Xa\r\n"), &[400]),
        closes("5: a name that is no token", get("X(): a\r\n"), &[400]),
        closes("5: a name that is not ASCII", get("Xé: a\r\n"), &[400]),
        closes("5.2: a folded line", get("X: a\r\n b\r\n"), &[400]),
        closes("5.2: a line folded by a tab", get("X: a\r\n\tb\r\n"), &[400]),
        closes("5.2: a folded Host", fields("Host:\r\n h\r\n"), &[400]),
        closes("2.2: a blank before the first field", fields(" Host: h\r\n"), &[400]),
        closes("9110 5.5: NUL in a value", get("X: a\0b\r\n"), &[400]),
        closes("9110 5.5: a control character in a value", get("X: a\x01b\r\n"), &[400]),
        closes("9110 5.5: a bare CR in a value", get("X: a\rb\r\n"), &[400]),
        closes("9110 5.5: DEL in a value", get("X: a\x7fb\r\n"), &[400]),
        closes("2.2: a bare LF between fields", fields("Host: h\nX: a\r\n"), &[400]),
        closes("2.2: a bare LF at the end", "GET / HTTP/1.1\r\nHost: h\r\n\n", &[400]),
        closes("5: NUL in a name", get("X\0: a\r\n"), &[400]),
    ]
}

fn sizes() -> Vec<Row> {
    let section = |len: usize| fields(&format!("Host: h\r\nX: {}\r\n", "x".repeat(len - 16)));
    let many = |count: usize| fields(&format!("Host: h\r\n{}", "X: x\r\n".repeat(count - 1)));
    vec![
        stays("5.4: 16 KiB of fields are taken", section(16 * 1024), &[200]),
        closes("6585 5: more get 431", section(16 * 1024 + 1), &[431]),
        closes(
            "6585 5: also without an end",
            format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(17_000)),
            &[431],
        ),
        stays("5.4: 100 fields are taken", many(100), &[200]),
        closes("6585 5: more get 431", many(101), &[431]),
        closes(
            "6585 5: thousands get 431",
            format!("GET / HTTP/1.1\r\n{}", "X:\r\n".repeat(5_000)),
            &[431],
        ),
    ]
}

fn host() -> Vec<Row> {
    let absolute = |fields: &str| format!("GET http://h/ HTTP/1.1\r\n{fields}\r\n");
    vec![
        stays("3.2: no Host in HTTP/1.1", fields(""), &[400]),
        stays("3.2: two Hosts", fields("Host: a\r\nHost: b\r\n"), &[400]),
        stays("3.2: the same Host twice", fields("Host: a\r\nHost: a\r\n"), &[400]),
        stays("3.2: Hosts in other cases", fields("Host: a\r\nHOST: a\r\n"), &[400]),
        stays("3.2: a list of hosts", fields("Host: a, b\r\n"), &[400]),
        stays("3.2: a path in Host", fields("Host: a/b\r\n"), &[400]),
        stays("3.2: a blank in Host", fields("Host: a b\r\n"), &[400]),
        stays("3.2: a user in Host", fields("Host: u@a\r\n"), &[400]),
        stays("9110 7.2: a port that is no number", fields("Host: a:b\r\n"), &[400]),
        stays("9110 7.2: two ports", fields("Host: a:1:2\r\n"), &[400]),
        stays("3986 3.2.2: an address of IPv6 without brackets", fields("Host: ::1\r\n"), &[400]),
        stays("3986 3.2.2: brackets around no address", fields("Host: [x]\r\n"), &[400]),
        stays("9110 7.2: an empty Host", fields("Host:\r\n"), &[400]),
        stays(
            "3.2.2: a target with an empty host",
            "GET http:/// HTTP/1.1\r\nHost: h\r\n\r\n",
            &[400],
        ),
        closes("3.2: HTTP/1.0 needs none", "GET / HTTP/1.0\r\nHost:\r\n\r\n", &[200]),
        stays("9110 7.2: a port", fields("Host: a.b-c_d:80\r\n"), &[200]),
        stays("3986 3.2.2: an address of IPv6", fields("Host: [::1]:8888\r\n"), &[200]),
        closes("2.3: HTTP/1.0 needs no Host", "GET / HTTP/1.0\r\n\r\n", &[200]),
        closes("3.2: but not two", "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", &[400]),
        stays("3.2.2: absolute-form needs a Host, too", absolute(""), &[400]),
        stays("3.2.2: the target's host counts, not this one", absolute("Host: a b\r\n"), &[200]),
    ]
}
