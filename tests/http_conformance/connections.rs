//! Connections: RFC 9112, section 9; RFC 9110, section 7.6.

use super::{Row, closes, get, half_closed, stays};
use crate::wire;

fn http_1_0(fields: &str) -> String {
    format!("GET / HTTP/1.0\r\n{fields}\r\n")
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = options();
    rows.extend(pipelines());
    rows.extend(ends());
    rows
}

fn options() -> Vec<Row> {
    vec![
        stays("9.3: HTTP/1.1 persists", get(""), &[200]),
        closes("9.6: close", get("Connection: close\r\n"), &[200]),
        closes("9110 7.6.1: options in any case", get("Connection: CLOSE\r\n"), &[200]),
        closes("9110 7.6.1: a list", get("Connection: x , close\r\n"), &[200]),
        closes("9110 7.6.1: several fields", get("Connection: x\r\nConnection: close\r\n"), &[200]),
        closes("9.3: close wins", get("Connection: keep-alive, close\r\n"), &[200]),
        closes(
            "9.6: on an error, too",
            "GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
            &[404],
        ),
        stays(
            "9110 7.6.1: options are whole tokens",
            get("Connection: closed, xclose\r\n"),
            &[200],
        ),
        stays("9110 7.6.1: an empty option", get("Connection: ,\r\n"), &[200]),
        stays("9.3: keep-alive", get("Connection: keep-alive\r\n"), &[200]),
        stays(
            "9110 7.8: an upgrade is not done",
            get("Connection: upgrade\r\nUpgrade: h2c\r\n"),
            &[200],
        ),
        closes("9.3: HTTP/1.0 ends", http_1_0(""), &[200]),
        stays("9.3: unless it asks to be kept", http_1_0("Connection: Keep-Alive\r\n"), &[200]),
        closes("9.3: close wins there, too", http_1_0("Connection: keep-alive, close\r\n"), &[200]),
        stays("9.3: HEAD in HTTP/1.0", "HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", &[200]),
    ]
}

fn pipelines() -> Vec<Row> {
    let lock = r#"{"title":"x","wait":0,"lifetime":60}"#;
    let post = wire::request("POST", "/locks/a", "Host: h", lock);
    let missing = "GET /x HTTP/1.1\r\nHost: h\r\n\r\n";
    let two = get("") + missing;
    vec![
        stays("9.3.2: answers in order", &two, &[200, 404]),
        stays("9.3.2: a hundred", two.repeat(50), &[200, 404].repeat(50)),
        stays("9.3.2: behind a body", post.clone() + &post + missing, &[201, 408, 404]),
        closes("9.6: none behind close", get("Connection: close\r\n") + &post, &[200]),
        closes(
            "9.6: none behind what cannot be read",
            format!("{}GET\r\n\r\n{post}", get("")),
            &[200, 400],
        ),
        closes("2.2: nor behind garbage", get("") + "{}" + &post, &[200, 400]),
    ]
}

fn ends() -> Vec<Row> {
    vec![
        half_closed("9.6: exactly one answer after a half-close", get(""), &[200]),
        half_closed("9.6: one for each request before it", get("") + &get(""), &[200, 200]),
        half_closed(
            "9.6: an error is one answer, too",
            "GET /x HTTP/1.1\r\nHost: h\r\n\r\n",
            &[404],
        ),
        half_closed("8: a head that ends early", "GET / HTTP/1.1\r\nHost", &[400]),
        half_closed("8: a head without its last line", "GET / HTTP/1.1\r\nHost: h\r\n", &[400]),
        half_closed("8: half a request line", "GE", &[400]),
        half_closed("9: nothing at all", "", &[]),
        half_closed("2.2: an empty line is nothing", "\r\n", &[]),
        half_closed("9.6: after an answer, nothing more", get("") + "\r\n", &[200]),
    ]
}
