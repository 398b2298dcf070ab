//! Names that are not known: what was meant, and which ones Kubernetes has set.

use std::ffi::OsStr;

use strsim::damerau_levenshtein;

/// Such as `: did you mean --port?`; nothing if no known name is near.
pub(super) fn hint<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> String {
    // A common prefix would make any two names look alike.
    let essence = |name: &str| name.trim_start_matches('-').replace("RDLM_SERVE_", "");
    let written = essence(name);
    let distance = |known: &&str| damerau_levenshtein(&written, &essence(known));
    let nearest = known.min_by_key(distance).filter(|known| {
        let length = written.chars().count().max(3);
        distance(known) <= length.div_ceil(3) || essence(known).starts_with(&*written)
    });
    nearest.map(|known| format!(": did you mean {known}?")).unwrap_or_default()
}

/// Whether Kubernetes sets a variable of this form for a Service in the same namespace: for
/// `rdlm-serve`, `RDLM_SERVE_SERVICE_HOST`, `RDLM_SERVE_PORT_8888_TCP` and so on.
pub(super) fn is_service_link(name: &str, value: &OsStr) -> bool {
    let words: Vec<&str> = name.split('_').collect();
    match &words[..] {
        [.., "SERVICE", "HOST" | "PORT"] => true,
        [.., "PORT", number, "TCP" | "UDP" | "SCTP"]
        | [.., "PORT", number, "TCP" | "UDP" | "SCTP", "PROTO" | "PORT" | "ADDR"] => {
            number.parse::<u16>().is_ok()
        }
        [.., "PORT"] => is_link(&value.to_string_lossy()),
        // A port with a name.
        _ => name.contains("_SERVICE_PORT_"),
    }
}

/// Whether this is how Kubernetes writes the address of a Service.
pub(super) fn is_link(value: &str) -> bool {
    ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme))
}
