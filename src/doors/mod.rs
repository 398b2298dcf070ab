//! Doors: what clients ask of the locks, each door a file over [`http`](crate::http) and the
//! [`LockManager`].
//!
//! [`Service`] takes a request to its door: `routes` knows which one that is, `caller` who
//! may pass.

pub mod access;
mod acquire;
mod admin;
mod body;
mod caller;
pub mod event_log;
mod events;
mod fleetlock;
mod forwarded;
mod gzip;
mod hal;
mod health;
mod introduction;
mod lists;
mod origin;
mod page;
mod refusals;
mod rest;
mod rights;
mod routes;
mod subscribers;
mod terraform;
pub mod users;

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use log::{Level, debug, log_enabled};
use smol_str::SmolStr;

use crate::http::departures::Client;
use crate::http::{Problem, Request, Response, Status, Target, Unreadable};
use crate::lock::{LockManager, Pending, Reason, Refusal};
use crate::metrics::{Kind, Metrics};
use crate::passwords::Passwords;
use access::Access;
pub use acquire::IF_UNDELIVERED;
use caller::Caller;
pub use fleetlock::Slots;
use gzip::Gzip;
pub use introduction::Introduction;
use origin::Site;
pub(crate) use refusals::refused;
use routes::{Need, Route};
use subscribers::Subscribers;
use users::Users;

/// What clients may ask for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RequestLimits {
    /// The longest `wait`.
    pub max_wait: Duration,
    /// The longest `lifetime`.
    pub max_lifetime: Duration,
}

impl RequestLimits {
    /// What no server goes beyond.
    pub const LONGEST: Duration = Duration::from_secs(1_000_000_000);

    /// Adds the limits to the refusal of a `wait` or `lifetime`, for programs.
    fn shown_in(self, problem: Problem) -> Problem {
        let limits = [("max_wait", self.max_wait), ("max_lifetime", self.max_lifetime)];
        let members = limits.map(|(name, limit)| (name.into(), hal::in_seconds(limit)));
        problem.with_members(members.into_iter().collect())
    }
}

/// How requests are answered.
#[derive(Clone)]
pub struct Settings {
    /// Who may send administrative requests.
    pub access: Access,
    /// Who there is and may do what; in place of that.
    pub users: Option<Arc<Users>>,
    /// Whether everybody may read metrics, also where there are users.
    pub open_metrics: bool,
    /// Limits of what clients ask for.
    pub limits: RequestLimits,
    /// What precedes `/locks/…` in a Location, without a slash at its end; if there is none,
    /// the host that the client named.
    pub base_url: Option<String>,
    /// Names of this server, beside localhost, that of its host and that of the base URL.
    pub hosts: Vec<String>,
    /// The name of the host that it is on.
    pub own_host: String,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// How many may follow events at a time.
    pub max_subscribers: usize,
    /// How many nodes may reboot at a time, if FleetLock is served.
    pub fleetlock: Option<Slots>,
}

/// Answers the requests of all connections.
pub struct Service {
    locks: Arc<dyn LockManager>,
    settings: Settings,
    metrics: Arc<Metrics>,
    passwords: Passwords,
    site: Site,
    /// What precedes the paths of links: that of the base URL.
    prefix: SmolStr,
    subscribers: Arc<Subscribers>,
    gzip: Gzip,
    shutting_down: AtomicBool,
}

/// A request at its door.
struct Call<'a> {
    service: &'a Service,
    request: &'a Request<'a>,
    caller: Caller<'a>,
}

/// What a door says.
type Answer = Result<Response, Problem>;

/// What it says when a change was written.
type Later = Result<Pending<Answer>, Problem>;

impl Service {
    /// Answers by way of these locks.
    pub fn new(locks: Arc<dyn LockManager>, settings: Settings, metrics: Arc<Metrics>) -> Self {
        let (passwords, shutting_down) = (Passwords::new(), AtomicBool::new(false));
        let site = Site::new(&settings.hosts, &settings.own_host, settings.base_url.as_deref());
        let subscribers = Arc::new(Subscribers::new(settings.max_subscribers));
        let gzip = Gzip::default();
        let prefix = settings.base_url.as_deref().map_or("", path_of).into();
        Self { locks, settings, metrics, passwords, site, prefix, subscribers, gzip, shutting_down }
    }

    /// Says from now on that the server is about to end.
    pub fn shut_down(&self) {
        self.shutting_down.store(true, Ordering::SeqCst);
    }

    /// The response to one request, which may come when a change was written. A panic on the way
    /// becomes a 500 and harms no other request.
    pub fn answer(&self, request: &Request<'_>, client: Client<'_>) -> Pending<Response> {
        self.answer_for(request, client, None)
    }

    /// The same for a client that another server has introduced.
    pub fn answer_for(
        &self,
        request: &Request<'_>,
        client: Client<'_>,
        introduction: Option<&Introduction>,
    ) -> Pending<Response> {
        let began = Instant::now();
        let route = Route::parse(&request.target);
        let error = error(&route);
        let account = Account::open(self, request, kind(&route, request.method), began);
        let answer = || {
            let answer = self.call(route, request, client, introduction);
            answer.unwrap_or_else(|problem| Err(problem).into())
        };
        let answer = match panic::catch_unwind(AssertUnwindSafe(answer)) {
            Ok(Pending::Ready(answer)) => answer.into(),
            Ok(later) => later.or_if_it_panics(panicked(request)),
            Err(_) => panicked(request)().into(),
        };
        answer.map(move |answer| account.close(answer.unwrap_or_else(error)))
    }

    /// The response to a request whatever its body is, if its head alone has a mistake.
    pub fn answer_to_head(&self, request: &Request<'_>, client: Client<'_>) -> Option<Response> {
        let began = Instant::now();
        let route = Route::parse(&request.target);
        let error = error(&route);
        let account = Account::open(self, request, kind(&route, request.method), began);
        let problem = self.admit(route, request, client).err()?;
        Some(account.close(error(problem)))
    }

    /// Asks the client of a request, which another server is to answer, who it is.
    ///
    /// # Errors
    /// The response, if it is not let in.
    pub fn introduce(
        &self,
        request: &Request<'_>,
        client: Client<'_>,
    ) -> Result<Introduction, Response> {
        let began = Instant::now();
        let route = Route::parse(&request.target);
        let error = error(&route);
        let account = Account::open(self, request, kind(&route, request.method), began);
        let introduction = self
            .admit(route, request, client)
            .and_then(|route| Introduction::of(self, &route, request, client));
        introduction.map_err(|problem| account.close(error(problem)))
    }

    /// Counts a request that was refused for this reason before it came to its door.
    pub fn count_refused(&self, request: &Request<'_>, reason: Reason) {
        let kind = kind(&Route::parse(&request.target), request.method);
        match (kind, request.method) {
            (Kind::Acquire, _) | (Kind::Terraform, "LOCK") => {
                self.metrics.acquisition(Err(reason), Duration::ZERO);
            }
            (Kind::Fleetlock, _) if request.target.path() == routes::PRE_REBOOT => {
                self.metrics.acquisition(Err(reason), Duration::ZERO);
            }
            (Kind::Renew, _) => match body::change(request.body, self.settings.limits) {
                Ok(body::Change::Renewal(_)) => self.metrics.renewal_failed(reason),
                Ok(body::Change::Conversion(_)) => self.metrics.conversion(Err(reason)),
                Err(_) => {}
            },
            _ => {}
        }
    }

    /// Counts a renewal that was made, and is answered as unknown. What else is done is counted by
    /// that: by the grant, for example, which is given back.
    pub fn count_withheld(&self, request: &Request<'_>) {
        if let Ok(body::Change::Renewal(_)) = body::change(request.body, self.settings.limits)
            && request.method == "PATCH"
        {
            self.metrics.renewal_failed(Reason::OutcomeUnknown);
        }
    }

    /// Gives back the lock that a target names, whose client was not told of it.
    pub fn give_back(&self, target: &Target<'_>) {
        if let Ok(Route::OfLock(_, resource, id)) = Route::parse(target) {
            self.locks.abandon(&resource, id);
        }
    }

    /// The response to what could not be read.
    pub fn refuse(&self, error: Unreadable) -> Response {
        let response = uncached(Problem::from(error).into());
        debug!("a request that could not be read: {error:?} {}", response.status.code());
        response
    }

    /// The response to a request on a connection that must not wait, if the request could.
    pub fn refuse_to_wait(&self, request: &Request<'_>) -> Option<Response> {
        let route = Route::parse(&request.target).ok()?;
        let may_wait = route.operation(request.method)?.kind == Kind::Acquire;
        may_wait.then(|| uncached(refusals::refused(Refusal::TooManyWaiting).into()))
    }

    /// The response to whoever does not encrypt where that is needed.
    pub fn refuse_unencrypted(&self) -> Response {
        debug!("a request that was not encrypted was refused");
        let text = "This port speaks HTTPS (TLS): the URL begins with https://\n";
        uncached(Response::new(Status::BadRequest))
            .body("text/plain; charset=utf-8", text.as_bytes())
    }

    fn call(
        &self,
        route: Result<Route, Problem>,
        request: &Request<'_>,
        client: Client<'_>,
        introduction: Option<&Introduction>,
    ) -> Later {
        let route = self.admit(route, request, client)?;
        let Some(operation) = route.operation(request.method) else {
            return Ok(Ok(Response::no_content().header("Allow", route.allow())).into());
        };
        if operation.needs.shows_locks() && introduction.is_none() {
            self.site.admit_reader(request)?;
        }
        let needs = self.needs(operation.needs);
        let resource = route.resource();
        let caller = Caller::admit(self, needs, resource, request, client, introduction)?;
        operation.run(&Call { service: self, request, caller })
    }

    fn needs(&self, needs: Need) -> Need {
        if needs == routes::METRICS && self.settings.open_metrics { Need::Nothing } else { needs }
    }

    /// Refuses what is wrong with a request whatever its body is.
    fn admit(
        &self,
        route: Result<Route, Problem>,
        request: &Request<'_>,
        client: Client<'_>,
    ) -> Result<Route, Problem> {
        origin::require_one_host(request)?;
        self.site.admit(request, client.is_encrypted())?;
        let route = route?;
        if matches!(route, Route::FleetLock(_)) && self.settings.fleetlock.is_none() {
            return Err(routes::not_found());
        }
        if route.is_administrative() && self.settings.access == Access::Denied {
            return Err(access::denied());
        }
        match route {
            route if request.method == "OPTIONS" || route.operation(request.method).is_some() => {
                Ok(route)
            }
            Route::Server => Err(Problem::bad_request("the target * is for OPTIONS alone")),
            route => Err(Problem::method_not_allowed(route.allow())),
        }
    }
}

/// What is noted of a request when it has its response.
struct Account {
    metrics: Arc<Metrics>,
    kind: Kind,
    began: Instant,
    /// The request, if the log is to show it.
    shown: Option<String>,
}

impl Account {
    fn open(service: &Service, request: &Request<'_>, kind: Kind, began: Instant) -> Self {
        let show = || format!("{} {}", request.method, request.target.as_str().escape_debug());
        let shown = log_enabled!(Level::Debug).then(show);
        Self { metrics: Arc::clone(&service.metrics), kind, began, shown }
    }

    fn close(self, response: Response) -> Response {
        self.metrics.request(self.kind, self.began.elapsed());
        if let Some(request) = self.shown {
            debug!("{request} {}", response.status.code());
        }
        uncached(response)
    }
}

/// What is answered if a request ends in a panic.
fn panicked(request: &Request<'_>) -> impl FnOnce() -> Answer + Send + 'static {
    let request = format!("{} {:?}", request.method, request.target.as_str());
    move || {
        log::error!("a request ended in a panic: {request}");
        let detail = "the server failed at this request";
        Err(Problem::new(Status::InternalServerError, detail))
    }
}

/// The path of a URL; empty if it has none.
fn path_of(url: &str) -> &str {
    let behind_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    behind_scheme.find('/').map_or("", |at| &behind_scheme[at..])
}

/// What a request is to the metrics.
fn kind(route: &Result<Route, Problem>, method: &str) -> Kind {
    let operation = route.as_ref().ok().and_then(|route| route.operation(method));
    operation.map_or(Kind::Other, |operation| operation.kind)
}

/// How an error is written where a request leads.
fn error(route: &Result<Route, Problem>) -> fn(Problem) -> Response {
    match route {
        Ok(Route::FleetLock(_)) => fleetlock::error,
        _ => Response::from,
    }
}

/// What a lock is changes from one moment to the next: a cache on the way must not keep it.
fn uncached(response: Response) -> Response {
    response.header("Cache-Control", "no-store")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::sync::Mutex;
    use std::time::SystemTime;

    use smol_str::SmolStr;

    use crate::http::Singleton;
    use crate::http::departures::Departures;
    use crate::http::transport::Transport;
    use crate::lock::{
        Ages, Conversion, Cursor, Departure, Events, Grant, IdempotencyKey, Lock, LockId,
        NotWritten, Page, Refusal, ResourceName, Terms, Totals,
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
            // The client leaves as it is granted: too late.
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
        fn release(&self, _: &ResourceName, _: LockId) -> Pending<Result<(), Refusal>> {
            // When it was written.
            Pending::Later(Box::new(|then| then(Err(Box::new("release")))))
        }
        fn release_by_key(
            &self,
            _: &ResourceName,
            _: &IdempotencyKey,
        ) -> Pending<Result<(), Refusal>> {
            panic!("release_by_key")
        }
        fn holders(&self, _: &ResourceName, _: usize) -> Vec<(Grant, Option<IdempotencyKey>)> {
            panic!("holders")
        }
        fn renew(
            &self,
            _: &ResourceName,
            _: LockId,
            _: Duration,
        ) -> Pending<Result<Grant, Refusal>> {
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
        fn delete_resource(&self, _: &ResourceName) -> Result<(), Refusal> {
            panic!("delete_resource")
        }
        fn delete_all(&self) -> Result<(), Refusal> {
            panic!("delete_all")
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
        let limit = Duration::from_secs(1_000_000_000);
        let limits = RequestLimits { max_wait: limit, max_lifetime: limit };
        let settings = Settings {
            access: Access::Open,
            users: None,
            open_metrics: false,
            limits,
            base_url: None,
            hosts: Vec::new(),
            own_host: "host".into(),
            trusted_proxies: Vec::new(),
            max_subscribers: 1,
            fleetlock: None,
        };
        Service::new(locks, settings, Arc::default())
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
    fn whoever_leaves_at_the_moment_of_the_grant_does_not_keep_the_lock() {
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
}
