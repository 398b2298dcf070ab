//! Base URLs of the API, as given to client and server.

/// Checks a base URL, and removes slashes at its end.
///
/// # Errors
/// What was expected instead.
pub fn base(text: &str) -> Result<String, String> {
    let url = text.trim_end_matches('/');
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let legal = |byte: u8| byte.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&byte);
    match rest {
        Some(rest) if has_host(rest) && rest.bytes().all(legal) => Ok(url.into()),
        _ => Err("a URL such as https://locks.example.com, without a query".into()),
    }
}

/// Without what may be credentials, for messages: whatever is before an `@`, but for the scheme of a
/// well-formed URL.
pub fn without_password(text: &str) -> String {
    let Some((before, host)) = text.rsplit_once('@') else { return text.into() };
    let scheme = before.split_once("://").map(|(scheme, _)| scheme);
    let is_scheme = |scheme: &&str| ["http", "https"].contains(scheme);
    match scheme.filter(is_scheme) {
        Some(scheme) => format!("{scheme}://{host}"),
        None => host.into(),
    }
}

/// Whether a URL without its scheme begins with a host, and a valid port if there is one.
fn has_host(rest: &str) -> bool {
    let authority = rest.split('/').next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let port = host.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.contains(']'));
    !host.is_empty()
        && !host.starts_with(':')
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0))
}
