//! Where a body ends: RFC 9112, sections 6 and 7; RFC 9110, sections 8.6 and 10.1.1.

use super::{Row, closes, get, half_closed, smuggled, stays};

/// `POST /locks/a` with these field lines after Host, and what follows.
fn post(fields: &str, rest: &str) -> String {
    format!("POST /locks/a HTTP/1.1\r\nHost: h\r\n{fields}\r\n{rest}")
}

/// A request in chunks.
fn chunked(chunks: &str) -> String {
    post("Transfer-Encoding: chunked\r\n", chunks)
}

const LOCK: &str = r#"{"title":"x","wait":0,"lifetime":60}"#;

pub(super) fn rows() -> Vec<Row> {
    let mut rows = lengths();
    rows.extend(codings());
    rows.extend(chunks());
    rows.extend(expectations());
    rows
}

fn lengths() -> Vec<Row> {
    let length = |value: &str| post(&format!("Content-Length: {value}\r\n"), &smuggled());
    let (own, inner) = (LOCK.len(), smuggled());
    vec![
        stays("6.2: Content-Length", post(&format!("Content-Length: {own}\r\n"), LOCK), &[201]),
        stays(
            "9110 8.6: leading zeros",
            post(&format!("Content-Length: 000{own}\r\n"), LOCK),
            &[201],
        ),
        stays(
            "6.2: a body that looks like a request",
            post(&format!("Content-Length: {}\r\n", inner.len()), &inner),
            &[400],
        ),
        stays(
            "6.2: 64 KiB are taken",
            post("Content-Length: 65536\r\n", &"x".repeat(65_536)),
            &[400],
        ),
        stays("9110 9.3.1: a GET may have a body", get("Content-Length: 5\r\n") + "hello", &[200]),
        stays("6.3: a length of 0", post("Content-Length: 0\r\n", ""), &[400]),
        stays("6.3: a GET without a length has no body", get("") + &get(""), &[200, 200]),
        closes("6.3: a POST without a length", post("", ""), &[400]),
        closes("6.3: what follows it is no request", post("", &inner), &[400]),
        closes(
            "6.3: also where POST is not done",
            format!("POST / HTTP/1.1\r\nHost: h\r\n\r\n{inner}"),
            &[405],
        ),
        closes(
            "6.3: nor after a PATCH",
            format!("PATCH / HTTP/1.1\r\nHost: h\r\n\r\n{inner}"),
            &[405],
        ),
        closes("6.3: no number", length("abc"), &[400]),
        closes("6.3: an empty length", length(""), &[400]),
        closes("6.3: a plus", length("+5"), &[400]),
        closes("6.3: a minus", length("-5"), &[400]),
        closes("6.3: a list of the same", length("5,5"), &[400]),
        closes("6.3: a list of others", length("5, 6"), &[400]),
        closes("6.3: a hexadecimal number", length("0x5"), &[400]),
        closes("6.3: a fraction", length("5.0"), &[400]),
        closes("6.3: a blank within", length("5 5"), &[400]),
        closes("6.3: digits that are not ASCII", length("٥"), &[400]),
        closes("6.3: twice", post("Content-Length: 5\r\nContent-Length: 5\r\n", &inner), &[400]),
        closes(
            "6.3: two that differ",
            post("Content-Length: 5\r\nContent-Length: 6\r\n", &inner),
            &[400],
        ),
        closes("6.3: on a GET, too", get("Content-Length: x\r\n") + &inner, &[400]),
        closes("9110 15.5.14: over 64 KiB", length("65537"), &[413]),
        closes("9110 15.5.14: 2^31", length("2147483648"), &[413]),
        closes("9110 15.5.14: 2^63", length("9223372036854775808"), &[413]),
        closes("9110 15.5.14: 2^64", length("18446744073709551616"), &[413]),
        closes("9110 15.5.14: 40 digits", length(&"9".repeat(40)), &[413]),
        half_closed("8: a body that ends early", post("Content-Length: 50\r\n", "{"), &[400]),
    ]
}

fn codings() -> Vec<Row> {
    let coding =
        |value: &str| post(&format!("Transfer-Encoding: {value}\r\n"), "0\r\n\r\n") + &smuggled();
    let own = LOCK.len();
    let whole = format!("{own:x}\r\n{LOCK}\r\n0\r\n\r\n");
    vec![
        stays("7.1: chunked", chunked(&whole), &[201]),
        stays("7: codings in any case", post("transfer-encoding: cHUnkeD\r\n", &whole), &[201]),
        stays(
            "7.1: a GET may have a body in chunks",
            get("Transfer-Encoding: chunked\r\n") + "0\r\n\r\n",
            &[200],
        ),
        closes(
            "6.1: with a Content-Length",
            post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n") + &smuggled(),
            &[400],
        ),
        closes(
            "6.1: with a Content-Length behind it",
            post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n") + &smuggled(),
            &[400],
        ),
        closes(
            "6.1: in HTTP/1.0",
            "POST /locks/a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_string()
                + &smuggled(),
            &[400],
        ),
        closes("6.1: a coding that is not understood", coding("gzip, chunked"), &[501]),
        closes("6.3: chunked is not the last", coding("chunked, gzip"), &[400]),
        closes("6.3: no chunked at all", coding("gzip"), &[400]),
        closes("6.3: identity is no coding any more", coding("identity"), &[400]),
        closes("6.1: chunked twice", coding("chunked, chunked"), &[400]),
        closes("7: another name", coding("xchunked"), &[400]),
        closes("7: an empty coding", coding(""), &[400]),
        closes("7: quotes", coding("\"chunked\""), &[400]),
        closes("7: a parameter", coding("chunked;q=1"), &[400]),
        closes(
            "6.1: two fields",
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")
                + &smuggled(),
            &[400],
        ),
        closes(
            "6.1: two fields that differ",
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n", "0\r\n\r\n")
                + &smuggled(),
            &[400],
        ),
        closes(
            "5.1: a blank before the colon",
            post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n") + &smuggled(),
            &[400],
        ),
    ]
}

fn chunks() -> Vec<Row> {
    let (front, back) = LOCK.split_at(10);
    let (a, b) = (front.len(), back.len());
    let large = format!("10000\r\n{}\r\n", "x".repeat(65_536));
    vec![
        stays(
            "7.1: several",
            chunked(&format!("{a:X}\r\n{front}\r\n00{b:x}\r\n{back}\r\n0\r\n\r\n")),
            &[201],
        ),
        stays(
            "7.1.1: extensions are ignored",
            chunked(&format!("{a:x};a;b=\"c\"\r\n{front}\r\n{b:x} ; d\r\n{back}\r\n0;e\r\n\r\n")),
            &[201],
        ),
        stays(
            "7.1.2: trailers are ignored",
            chunked(&format!(
                "{a:x}\r\n{front}\r\n{b:x}\r\n{back}\r\n0\r\nContent-Length: 5\r\nX: y\r\n\r\n"
            )),
            &[201],
        ),
        stays("7.1: an empty body", chunked("0\r\n\r\n"), &[400]),
        stays("7.1: several zeros at the end", chunked("000\r\n\r\n"), &[400]),
        stays("7.1: 64 KiB are taken", chunked(&format!("{large}0\r\n\r\n")), &[400]),
        closes(
            "9110 15.5.14: more are not",
            chunked(&format!("{large}1\r\nx\r\n0\r\n\r\n")),
            &[413],
        ),
        closes("9110 15.5.14: a huge size", chunked("ffffffff\r\n"), &[413]),
        closes("7.1: a size of 2^64", chunked("10000000000000000\r\n"), &[413]),
        closes("7.1: no size", chunked("\r\n\r\n"), &[400]),
        closes("7.1: no hexadecimal size", chunked("zz\r\nhello\r\n0\r\n\r\n"), &[400]),
        closes("7.1: a plus", chunked("+5\r\nhello\r\n0\r\n\r\n"), &[400]),
        closes("7.1: a minus", chunked("-5\r\nhello\r\n0\r\n\r\n"), &[400]),
        closes("7.1: 0x", chunked("0x5\r\nhello\r\n0\r\n\r\n"), &[400]),
        closes("7.1: a blank before the size", chunked(" 5\r\nhello\r\n0\r\n\r\n"), &[400]),
        closes("7.1: more data than the size", chunked("4\r\nhello\r\n0\r\n\r\n"), &[400]),
        closes("7.1: less data than the size", chunked("6\r\nhello\r\n0\r\n\r\n"), &[400]),
        closes("7.1: a bare LF after the size", chunked("5\nhello\r\n0\r\n\r\n"), &[400]),
        closes("7.1: a bare LF after the data", chunked("5\r\nhello\n0\r\n\r\n"), &[400]),
        closes("7.1.1: a bare LF in an extension", chunked("5;a\nhello\r\n0\r\n\r\n"), &[400]),
        closes(
            "7.1.1: a control character in an extension",
            chunked("5;a\x01\r\nhello\r\n0\r\n\r\n"),
            &[400],
        ),
        closes("7.1.1: a semicolon and no extension", chunked("23;\r\nhello\r\n0\r\n\r\n"), &[400]),
        closes("7.1.1: a blank and no extension", chunked("23 \r\nhello\r\n0\r\n\r\n"), &[400]),
        closes("7.1.1: a tab and no extension", chunked("23\t\r\nhello\r\n0\r\n\r\n"), &[400]),
        closes("7.1.1: a name that is no token", chunked("23;bad[=x\r\nhello\r\n0\r\n"), &[400]),
        closes("7.1.1: a value that is no token", chunked("23;a=b c\r\nhello\r\n0\r\n"), &[400]),
        closes("7.1.1: a string without an end", chunked("23;a=\"b\r\nhello\r\n0\r\n"), &[400]),
        closes("7.1.1: on the last chunk, too", chunked("0;\r\n\r\n"), &[400]),
        closes("7.1.1: an endless extension", chunked(&format!("5;{}", "a".repeat(300))), &[400]),
        closes("7.1.2: a malformed trailer", chunked("0\r\nno field\r\n\r\n"), &[400]),
        closes("7.1.2: a folded trailer", chunked("0\r\nX: a\r\n b\r\n\r\n"), &[400]),
        closes("7.1.2: a bare LF in the trailers", chunked("0\r\nX: a\n\r\n"), &[400]),
        closes(
            "7.1.2: endless trailers",
            chunked(&format!("0\r\nX: {}", "x".repeat(17_000))),
            &[431],
        ),
        closes(
            "7.1.2: too many trailers",
            chunked(&format!("0\r\n{}", "X:\r\n".repeat(200))),
            &[431],
        ),
        half_closed("8: chunks that end early", chunked("5\r\nhel"), &[400]),
        half_closed("8: chunks without the last", chunked("5\r\nhello\r\n"), &[400]),
    ]
}

fn expectations() -> Vec<Row> {
    let expect = |fields: &str| post(&format!("Expect: 100-continue\r\n{fields}"), "");
    let length = format!("Content-Length: {}\r\n", LOCK.len());
    let unknown = |fields: &str| {
        format!("POST /nothing HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n{fields}\r\n")
    };
    let no_host = "POST /locks/a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    vec![
        half_closed("9110 10.1.1: 100 before the body", expect(&length), &[100, 400]),
        half_closed(
            "9110 10.1.1: 100 before chunks",
            expect("Transfer-Encoding: chunked\r\n"),
            &[100, 400],
        ),
        half_closed(
            "9110 10.1.1: in any case",
            post(&format!("expect: 100-CONTINUE\r\n{length}"), ""),
            &[100, 400],
        ),
        stays("9110 10.1.1: not when the body is there", expect(&length) + LOCK, &[201]),
        stays("9110 10.1.1: not without a body", get("Expect: 100-continue\r\n"), &[200]),
        closes("9110 10.1.1: not when it is refused", expect("Content-Length: 65537\r\n"), &[413]),
        closes(
            "9110 10.1.1: not before an unknown path",
            unknown("Expect: 100-continue\r\n"),
            &[404],
        ),
        closes("9110 10.1.1: not before a missing Host", no_host, &[400]),
        closes("9110 9.3: what the head decides needs no body", unknown(""), &[404]),
        closes(
            "9110 9.3: nor does another method",
            "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n",
            &[405],
        ),
        closes("3.2: nor a missing Host", "GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", &[400]),
        closes(
            "9110 9.3: nor in chunks",
            "PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
            &[405],
        ),
        closes(
            "9110 9.3.2: the answer to HEAD has no content then, either",
            "HEAD /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n",
            &[404],
        ),
        closes(
            "9110 10.1.1: ignored in HTTP/1.0",
            format!("POST /locks/a HTTP/1.0\r\nExpect: 100-continue\r\n{length}\r\n{LOCK}"),
            &[201],
        ),
        closes(
            "9110 10.1.1: another expectation",
            post(&format!("Expect: x\r\n{length}"), LOCK),
            &[417],
        ),
    ]
}
