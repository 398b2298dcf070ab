//! Requests to a service whose locks fail, or are granted at a moment of the test's choice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use super::{AnsweredBy, Environment, Past, Service, Settings};
use crate::http::departures::Client;
use crate::http::{Request, Target};
use crate::lock::{LockManager, Pending};
use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::sync::Mutex;

use smol_str::SmolStr;

use crate::http::Singleton;
use crate::http::departures::Departures;
use crate::http::head::RequestHead;
use crate::http::transport::Transport;
use crate::lock::{
    Actor, Ages, Conversion, Cursor, Departure, Events, Grant, IdempotencyKey, Lock, LockId,
    NotWritten, Page, Refusal, ResourceName, Standing, Terms, Totals,
};

static ADDRESS: SmolStr = SmolStr::new_static("127.0.0.1");

/// Fails at each call, as no lock manager should, unless it grants or has names.
#[derive(Default)]
pub(super) struct Broken {
    /// Runs while a request waits, which is granted then.
    pub(super) grants_after: Option<Box<dyn Fn() + Send + Sync>>,
    pub(super) abandoned: AtomicBool,
    /// How many resources there are, which are called by numbers and have two pages of locks.
    pub(super) resources: usize,
}

impl LockManager for Broken {
    fn acquire(
        &self,
        _: &ResourceName,
        terms: Terms,
        _: Option<IdempotencyKey>,
        on_wait: &mut dyn FnMut(Departure),
    ) -> Pending<Result<Grant, Refusal>> {
        let Some(while_waiting) = &self.grants_after else { panic!("acquire") };
        // The client leaves too late: as the lock is granted.
        on_wait(Departure::new(|| {}));
        while_waiting();
        let (id, epoch) = (LockId::random(), SystemTime::UNIX_EPOCH);
        let grant = Grant { id, terms, since: epoch, expires: None, fencing_token: 1 };
        Ok(grant).into()
    }
    fn abandon(&self, _: &ResourceName, _: LockId) {
        self.abandoned.store(true, Ordering::SeqCst);
    }
    fn find(&self, _: &ResourceName, _: LockId) -> Option<Lock> {
        panic!("find")
    }
    fn release(&self, _: &ResourceName, _: LockId, _: Actor) -> Pending<Result<(), Refusal>> {
        // When it was written.
        Pending::Later(Box::new(|then| then(Err(Box::new("release")))))
    }
    fn release_by_key(
        &self,
        _: &ResourceName,
        _: &IdempotencyKey,
        _: Actor,
    ) -> Pending<Result<(), Refusal>> {
        panic!("release_by_key")
    }
    fn holders(&self, _: &ResourceName, _: usize) -> Vec<(Grant, Option<IdempotencyKey>)> {
        panic!("holders")
    }
    fn renew(&self, _: &ResourceName, _: LockId, _: Duration) -> Pending<Result<Grant, Refusal>> {
        panic!("renew")
    }
    fn convert(
        &self,
        _: &ResourceName,
        _: LockId,
        _: Conversion,
        _: &mut dyn FnMut(Departure),
    ) -> Result<Grant, Refusal> {
        panic!("convert")
    }
    fn resources(&self, after: Option<&ResourceName>, limit: usize) -> Vec<ResourceName> {
        assert_ne!(self.resources, 0, "resources");
        let first = after.map_or(0, |last| last.as_str().parse::<usize>().unwrap() + 1);
        let names = (first..self.resources).take(limit);
        names.map(|number| format!("{number:09}").parse().unwrap()).collect()
    }
    fn locks(&self, _: &ResourceName, after: Option<Cursor>, _: usize) -> Page {
        assert_ne!(self.resources, 0, "locks");
        Page { next: after.is_none().then_some(Cursor::Held(1)), ..Page::default() }
    }
    fn delete_resource(&self, _: &ResourceName, _: Actor) -> Result<(), Refusal> {
        panic!("delete_resource")
    }
    fn delete_all(&self, _: Actor) -> Result<(), Refusal> {
        panic!("delete_all")
    }
    fn survey(&self, _: &mut dyn FnMut(&ResourceName, &Standing) -> ControlFlow<()>) {
        panic!("survey")
    }
    fn events(&self) -> &Arc<Events> {
        panic!("events")
    }
    fn totals(&self) -> Totals {
        panic!("totals")
    }
    fn ages(&self) -> Ages {
        panic!("ages")
    }
    fn writable(&self) -> Result<(), NotWritten> {
        panic!("writable")
    }
    fn shut_down(&self) {
        panic!("shut_down")
    }
    fn settle(&self) {
        panic!("settle")
    }
}

/// The two ends of a connection, the client's first.
fn pair() -> (TcpStream, Transport) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let remote = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (remote, Transport::from(listener.accept().unwrap().0))
}

fn request<'a>(method: &'a str, target: &'a str) -> Request<'a> {
    Request {
        method,
        target: Target::parse(target),
        host: Singleton::One("locks.example:8888"),
        body: br#"{"title":"t","wait":0,"lifetime":1}"#,
        ..Request::UNREADABLE
    }
}

fn service(locks: Arc<Broken>) -> Service {
    let settings = Settings { max_subscribers: 1, ..Settings::default() };
    let past = Past { history: None, started: SystemTime::UNIX_EPOCH, is_shared: false };
    let environment = Environment { users: None, own_host: "host".into(), past };
    Service::new(Arc::new(locks), settings, environment, Arc::default())
}

#[test]
fn a_panic_in_one_request_answers_500_and_the_next_is_served() {
    let service = service(Arc::default());
    let (_remote, socket) = pair();
    let departures = Departures::new().unwrap();
    let client = Client::new(&socket, &ADDRESS, &departures);
    for (method, target) in [
        ("POST", "/locks/a"),
        ("GET", "/locks/a/aa4e181e17374148a21b30d9dcb941f9"),
        ("DELETE", "/locks/a/aa4e181e17374148a21b30d9dcb941f9"),
    ] {
        let response = service.answer(&request(method, target), client).wait();
        assert_eq!(response.status.code(), 500, "{target}");
    }
    let home = service.answer(&request("GET", "/"), client).wait();
    assert_eq!(home.status.code(), 200);
}

#[test]
fn the_table_says_what_a_server_may_answer_itself_and_send_again() {
    let service = service(Arc::default());
    let lock = "/locks/a/aa4e181e17374148a21b30d9dcb941f9";
    for (method, target, answered_by, is_repeatable) in [
        ("GET", "/", AnsweredBy::Receiver, true),
        ("POST", "/", AnsweredBy::Receiver, false),
        ("HEAD", "/metrics?x", AnsweredBy::Receiver, true),
        ("GET", "/openapi.json", AnsweredBy::Receiver, true),
        ("GET", "/health?role=active", AnsweredBy::Role, true),
        ("OPTIONS", "/locks/a", AnsweredBy::Receiver, false),
        ("OPTIONS", "*", AnsweredBy::Receiver, false),
        ("GET", "/unknown", AnsweredBy::Active, false),
        ("GET", "/status", AnsweredBy::Active, true),
        ("DELETE", "/resources", AnsweredBy::Active, false),
        ("POST", "/locks/a", AnsweredBy::Active, false),
        ("LOCK", "/locks/a", AnsweredBy::Active, true),
        ("UNLOCK", "/locks/a", AnsweredBy::Active, false),
        ("HEAD", lock, AnsweredBy::Active, true),
        ("PATCH", lock, AnsweredBy::Active, true),
        ("DELETE", lock, AnsweredBy::Active, false),
        ("POST", "/v1/pre-reboot", AnsweredBy::Active, true),
        ("POST", "/v1/steady-state", AnsweredBy::Active, true),
    ] {
        let handling = service.handling(&request(method, target));
        assert_eq!(handling.answered_by, answered_by, "{method} {target}");
        assert_eq!(handling.is_repeatable, is_repeatable, "{method} {target}");
    }
    assert!(service.handling(&request("GET", "/events?latest=1")).is_stream);
    assert!(!service.handling(&request("GET", "/status")).is_stream);
    let head = "POST /locks/a HTTP/1.1\r\nHost: h\r\nIdempotency-Key: k\r\n\r\n";
    let with_key = RequestHead::parse(head.as_bytes()).unwrap().request;
    assert!(service.handling(&with_key).is_repeatable);
}

#[test]
fn two_sorted_lists_are_made_at_a_time() {
    let service = service(Arc::default());
    let (_remote, socket) = pair();
    let departures = Departures::new().unwrap();
    let client = Client::new(&socket, &ADDRESS, &departures);
    let list = || {
        let sorted = request("GET", "/status?sort=line&limit=1");
        service.answer(&sorted, client).wait()
    };
    let made = [list(), list()];
    assert_eq!(made.each_ref().map(|response| response.status.code()), [200, 200]);
    assert_eq!(list().status.code(), 503);
    assert_eq!(service.answer(&request("GET", "/status"), client).wait().status.code(), 200);
    drop(made);
    assert_eq!(list().status.code(), 200);
}

#[test]
fn a_client_that_leaves_at_the_moment_of_the_grant_does_not_keep_the_lock() {
    for leaves in [false, true] {
        let (remote, socket) = pair();
        let remote = Mutex::new(Some(remote));
        let while_waiting = move || {
            if leaves {
                *remote.lock().unwrap() = None;
            }
        };
        let grants_after: Option<Box<dyn Fn() + Send + Sync>> = Some(Box::new(while_waiting));
        let locks = Arc::new(Broken { grants_after, ..Broken::default() });
        let service = service(Arc::clone(&locks));
        let departures = Departures::new().unwrap();
        let client = Client::new(&socket, &ADDRESS, &departures);
        let response = service.answer(&request("POST", "/locks/a"), client).wait();
        assert_eq!(response.status.code(), if leaves { 408 } else { 201 });
        assert_eq!(locks.abandoned.load(Ordering::SeqCst), leaves);
    }
}
