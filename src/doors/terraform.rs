//! The backend `http` of Terraform and OpenTofu: `LOCK` and `UNLOCK` of a state, each with a JSON
//! object that has an ID (internal/backend/remote-state/http and internal/states/statemgr in
//! their sources). A request is known by its ID, so it may be repeated.

use std::time::Duration;

use humantime::format_rfc3339;
use log::{info, warn};
use serde_json::{Map, Value, json};
use smol_str::SmolStr;

use super::acquire::{Undelivered, acquire};
use super::body::MAX_TITLE;
use super::call::ANONYMOUS;
use super::call::{Call, HandlerResult, PendingResult};
use super::door::{Handler, Operation, Outcome, at_once};
use super::refusals::refused;
use super::rights::{Requirement, Right};
use super::settings::RequestLimits;
use crate::http::{Problem, Response, Status};
use crate::lock::{
    Cursor, Grant, IdempotencyKey, Lifetime, Lock, LockId, LockManager, Refusal, ResourceName,
    Terms,
};

/// Of `/locks/{resource}`. The ID in the body makes a LOCK repeatable; an UNLOCK that is sent twice
/// may find the lock of another client and be refused.
pub(super) const OPERATIONS: [Operation; 2] = [
    operation("LOCK", |call, resource| at_once(lock(call, resource)))
        .repeatable()
        .counted_as(Outcome::Acquisition),
    operation("UNLOCK", |call, resource| at_once(unlock(call, resource))),
];

const fn operation(
    method: &'static str,
    handler: fn(&Call<'_>, &ResourceName) -> PendingResult,
) -> Operation {
    Operation::new(method, Requirement::LOCK, "terraform", Handler::Resource(handler)).taking_rest()
}

/// What events call this door.
const DOOR_NAME: &str = "terraform";

/// The namespace of its keys.
const NAMESPACE: &str = "tf";

/// What stands for the ID of a holder: this, and its fencing token. UNLOCK takes it from
/// administrators only, whereas the ID itself, like a uid, is the right to release the lock.
const STAND_IN: &str = "rdlm-";

/// `LOCK /locks/{resource}?wait=S&lifetime=S`
fn lock(call: &Call<'_>, resource: &ResourceName) -> HandlerResult {
    logged("LOCK", resource, try_lock(call, resource))
}

/// `UNLOCK /locks/{resource}`
fn unlock(call: &Call<'_>, resource: &ResourceName) -> HandlerResult {
    logged("UNLOCK", resource, try_unlock(call, resource))
}

/// Terraform shows little of an error, so the log has it.
fn logged(method: &str, resource: &ResourceName, answer: HandlerResult) -> HandlerResult {
    answer.inspect_err(|problem| {
        if !matches!(problem.status(), Status::Locked | Status::Unauthorized) {
            warn!("{method} {resource} by Terraform: {}", problem.detail());
        }
    })
}

fn try_lock(call: &Call<'_>, resource: &ResourceName) -> HandlerResult {
    let info = LockInfo::parse(call.request.body)?;
    let (wait, lifetime) = times(call)?;
    let client = call.caller.requester.clone();
    let request = Terms { wait, client, ..Terms::exclusive(info.title(), lifetime) };
    let grant =
        acquire(call, resource, request, Some(info.key()?)).wait().map_err(
            |refusal| match refusal {
                Refusal::TimedOut => taken(call, resource, Status::Locked),
                refusal => refused(refusal),
            },
        )?;
    let body = Value::Object(shown(&info.id, &grant, None)).to_string();
    let response = Response::new(Status::Ok)
        .body("application/json", body.into_bytes())
        .header("RDLM-Fencing-Token", grant.fencing_token.to_string());
    Ok(Undelivered::new(call, resource.clone()).unless_delivered(response, grant.id))
}

/// The query's, or no wait, and no end: an expiry in the middle of an apply would be two of them.
fn times(call: &Call<'_>) -> Result<(Duration, Lifetime), Problem> {
    let (query, limits) = (call.request.target.query(), call.context.settings.limits);
    let parsed = |name, shortest, longest| {
        let parsed = query.parsed(name, |text| seconds(text, shortest, longest));
        parsed.map_err(|problem| limits.shown_in(problem))
    };
    let wait = parsed("wait", Duration::ZERO, limits.max_wait)?;
    let lifetime = parsed("lifetime", Duration::from_nanos(1), limits.max_lifetime)?;
    let is_bounded = limits.max_lifetime < RequestLimits::LONGEST;
    let default = if is_bounded { limits.max_lifetime.into() } else { Lifetime::Endless };
    Ok((wait.unwrap_or_default(), lifetime.map_or(default, Lifetime::For)))
}

fn seconds(text: &str, shortest: Duration, longest: Duration) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
    let in_range = |time: &Duration| (shortest..=longest).contains(time);
    let (over, longest) = (if shortest.is_zero() { "0" } else { "over 0" }, longest.as_secs_f64());
    seconds.filter(in_range).ok_or_else(|| format!("seconds from {over} to {longest}"))
}

fn try_unlock(call: &Call<'_>, resource: &ResourceName) -> HandlerResult {
    let locks = &*call.locks()?;
    if call.request.body.trim_ascii().is_empty() {
        let holder = first_holder(locks, resource).map(|(grant, _)| grant.id);
        return force(call, resource, holder);
    }
    let info = LockInfo::parse(call.request.body)?;
    if let Some(token) = info.id.strip_prefix(STAND_IN).and_then(|token| token.parse().ok()) {
        return force(call, resource, holder_with(locks, resource, token));
    }
    match locks.release_by_key(resource, &info.key()?, call.actor(DOOR_NAME)?).wait() {
        Err(Refusal::NoSuchLock) if first_holder(locks, resource).is_none() => {
            // As when the answer to the first one was lost.
            info!("UNLOCK {resource} by Terraform: it was not locked");
        }
        Err(Refusal::NoSuchLock) => return Err(taken(call, resource, Status::Conflict)),
        released => released.map_err(refused)?,
    }
    Ok(done())
}

/// `force-unlock`, which Terraform sends without a body: for administrators. It ends what is
/// held, not what waits.
fn force(call: &Call<'_>, resource: &ResourceName, holder: Option<LockId>) -> HandlerResult {
    let administrator = call.require(Right::Administrate, resource)?;
    let mut by = call.actor(DOOR_NAME)?;
    by.requester.user = administrator.or(by.requester.user);
    let unlocked = format!("{} unlocked {resource} by Terraform", by.requester);
    let id = holder.ok_or_else(|| refused(Refusal::NoSuchLock))?;
    call.locks()?.release(resource, id, by).wait().map_err(refused)?;
    info!("{unlocked}");
    Ok(done())
}

fn first_holder(
    locks: &dyn LockManager,
    resource: &ResourceName,
) -> Option<(Grant, Option<IdempotencyKey>)> {
    locks.holders(resource, 1).pop()
}

fn holder_with(locks: &dyn LockManager, resource: &ResourceName, token: u64) -> Option<LockId> {
    let behind = Cursor::Held(token.checked_sub(1)?);
    match locks.locks(resource, Some(behind), 1).locks.first()? {
        Lock::Held(grant) if grant.fencing_token == token => Some(grant.id),
        _ => None,
    }
}

fn done() -> Response {
    Response::new(Status::Ok).body("application/json", b"{}".to_vec())
}

/// Somebody else holds it: who, as an object that Terraform understands. Without an ID it would
/// not try again.
fn taken(call: &Call<'_>, resource: &ResourceName, status: Status) -> Problem {
    let members = match call.locks().ok().and_then(|locks| first_holder(&*locks, resource)) {
        Some((grant, key)) => {
            let id = key.as_ref().and_then(|key| key.id_at_door(NAMESPACE));
            let shows_title = call.shows_titles(resource, NAMESPACE);
            let who = if shows_title(key.as_ref()) { None } else { Some(ANONYMOUS) };
            let id = id.filter(|_| call.require(Right::Administrate, resource).is_ok());
            let stand_in = format!("{STAND_IN}{}", grant.fencing_token);
            shown(id.unwrap_or(&stand_in), &grant, who)
        }
        // It was released a moment ago.
        None => json!({ "ID": format!("{STAND_IN}0"), "Who": ANONYMOUS })
            .as_object()
            .cloned()
            .unwrap_or_default(),
    };
    let detail = format!("{resource} is locked by another client");
    Problem::new(status, detail).with_members(members)
}

/// A lock as Terraform has it: every member a string. The title is `{Who}: {Operation}`.
fn shown(id: &str, grant: &Grant, who: Option<&str>) -> Map<String, Value> {
    let (holder, operation) =
        grant.terms.title.rsplit_once(": ").unwrap_or((&grant.terms.title, ""));
    let (who, operation) = who.map_or((holder, operation), |who| (who, ""));
    let created = format_rfc3339(grant.since).to_string();
    let members = [
        ("ID", id),
        ("Operation", operation),
        ("Info", ""),
        ("Who", who),
        ("Version", ""),
        ("Created", &*created),
        ("Path", ""),
    ];
    members.into_iter().map(|(name, value)| (name.into(), value.into())).collect()
}

/// What Terraform says of a lock that it wants or has.
struct LockInfo {
    id: String,
    who: String,
    operation: String,
}

impl LockInfo {
    /// Other members are ignored.
    fn parse(body: &[u8]) -> Result<Self, Problem> {
        let expected = "expected a JSON object such as {\"ID\":\"d3c52b88-…\",\"Who\":\"me@host\"}";
        let wrong = |what: &str| Problem::bad_request(format!("{what}, {expected}"));
        let body: Value = serde_json::from_slice(body)
            .map_err(|error| wrong(&format!("the body is not valid JSON ({error})")))?;
        let members = body.as_object().ok_or_else(|| wrong("the body is not an object"))?;
        let text = |name: &str| match members.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(wrong(&format!("{name} is not a string"))),
        };
        let id = text("ID")?.ok_or_else(|| wrong("ID is missing"))?;
        let (who, operation) = (text("Who")?, text("Operation")?);
        Ok(Self { id, who: who.unwrap_or_default(), operation: operation.unwrap_or_default() })
    }

    fn title(&self) -> SmolStr {
        let title = match (&*self.who, &*self.operation) {
            ("", "") => "Terraform".into(),
            (who, "") => who.into(),
            (who, operation) => format!("{who}: {operation}"),
        };
        title[..title.floor_char_boundary(MAX_TITLE)].into()
    }

    fn key(&self) -> Result<IdempotencyKey, Problem> {
        IdempotencyKey::of_door(NAMESPACE, &self.id).map_err(|_| {
            Problem::bad_request("ID is not 1 to 124 visible ASCII characters, as a UUID is")
        })
    }
}
