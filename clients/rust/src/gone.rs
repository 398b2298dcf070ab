//! What became of a lock that is not there, as far as the server still knows.

use serde_json::Value;

/// A sentence from the member `gone` of a problem document, such as `it was deleted at
/// 2026-12-01T03:00:00Z by ops (10.0.0.7): maintenance`.
pub(super) fn sentence(problem: &Value) -> Option<String> {
    let gone = &problem["gone"];
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(String::from);
    let mut words = match gone["how"].as_str()? {
        "expired" => String::from("it expired"),
        how => format!("it was {how}"),
    };
    if let Some(at) = text(&gone["at"]) {
        words += &format!(" at {at}");
    }
    let (user, client) = (text(&gone["by"]["user"]), text(&gone["by"]["client"]));
    match (user, client) {
        (Some(user), Some(client)) => words += &format!(" by {user} ({client})"),
        (Some(who), None) | (None, Some(who)) => words += &format!(" by {who}"),
        (None, None) => {}
    }
    if let Some(reason) = text(&gone["reason"]) {
        words += &format!(": {reason}");
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_known_is_told() {
        let said = |gone: Value| sentence(&json!({ "gone": gone }));
        let by = json!({ "user": "ops", "client": "10.0.0.7", "door": "page" });
        let all = json!({ "how": "deleted", "at": "2026-12-01T03:00:00Z", "by": by, "reason": "it hung" });
        let expected = "it was deleted at 2026-12-01T03:00:00Z by ops (10.0.0.7): it hung";
        assert_eq!(said(all).as_deref(), Some(expected));
        assert_eq!(said(json!({ "how": "expired", "by": null })).as_deref(), Some("it expired"));
        let by_address = json!({ "how": "released", "by": { "client": "::1" }, "reason": "" });
        assert_eq!(said(by_address).as_deref(), Some("it was released by ::1"));
        for unknown in [json!(null), json!({}), json!({ "how": 1 }), json!("deleted")] {
            assert_eq!(said(unknown), None);
        }
    }
}
