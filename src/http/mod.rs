//! HTTP: one request in, one response out.
//!
//! [`connection`] turns the bytes of a client into requests; [`Service`] answers them by way
//! of the [`LockManager`].

pub mod accept;
pub mod access;
mod admin;
mod body;
pub mod chunked;
pub mod connection;
pub mod departures;
mod hal;
pub mod head;
pub mod listener;
mod locks;
pub mod message;
mod page;
mod problem;
mod routes;

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use log::{debug, error};

use crate::lock::LockManager;
use crate::metrics::{self, Kind, Metrics};
use access::Access;
use departures::Client;
use message::{Method, Request, Response, Singleton, Status, Unreadable};
use problem::Problem;
use routes::Route;

/// What clients may ask for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RequestLimits {
    /// The longest `wait`.
    pub max_wait: Duration,
    /// The longest `lifetime`.
    pub max_lifetime: Duration,
}

/// Answers the requests of all connections.
pub struct Service {
    /// The locks.
    pub locks: Arc<dyn LockManager>,
    /// Who may send administrative requests.
    pub access: Access,
    /// Limits of what clients ask for.
    pub limits: RequestLimits,
    /// What precedes `/locks/…` in a Location, without a slash at its end; if there is none,
    /// the host that the client named.
    pub base_url: Option<String>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The server is about to end.
    pub shutting_down: AtomicBool,
}

impl Service {
    /// The response to one request. A panic on the way becomes a 500 and harms no other
    /// request.
    pub fn answer(&self, request: &Request<'_>, client: Client<'_>) -> Response {
        let began = Instant::now();
        let route = Route::parse(request.target);
        let kind = route.as_ref().map_or(Kind::Other, |route| route.kind(request.method));
        let answer = || self.route(route, request, client).unwrap_or_else(Response::from);
        let response = panic::catch_unwind(AssertUnwindSafe(answer)).unwrap_or_else(|_| {
            error!("a request ended in a panic: {:?} {:?}", request.method, request.target);
            Problem::new(Status::InternalServerError, "the server failed at this request").into()
        });
        self.finish(request, kind, began, response)
    }

    /// The response to a request whatever its body is, if its head alone has a mistake.
    pub fn answer_to_head(&self, request: &Request<'_>) -> Option<Response> {
        let began = Instant::now();
        let route = Route::parse(request.target);
        let kind = route.as_ref().map_or(Kind::Other, |route| route.kind(request.method));
        let problem = self.admit(route, request).err()?;
        Some(self.finish(request, kind, began, problem.into()))
    }

    /// The response to what could not be read.
    pub fn refuse(&self, error: Unreadable) -> Response {
        let response = uncached(Problem::from(error).into());
        debug!("a request that could not be read: {error:?} {}", response.status.code());
        response
    }

    fn finish(
        &self,
        request: &Request<'_>,
        kind: Kind,
        began: Instant,
        response: Response,
    ) -> Response {
        self.metrics.request(kind, began.elapsed());
        debug!("{} {} {}", request.method, request.target.escape_debug(), response.status.code());
        uncached(response)
    }

    /// Takes back what a response granted that could not be delivered.
    pub fn take_back_granted(&self, undelivered: &Response) {
        if let Some((resource, id)) = &undelivered.grant {
            self.locks.abandon(resource, *id);
        }
    }

    fn route(
        &self,
        route: Result<Route, Problem>,
        request: &Request<'_>,
        client: Client<'_>,
    ) -> Result<Response, Problem> {
        let route = self.admit(route, request)?;
        match (&route, request.method) {
            (_, Method::Options) => Ok(Response::no_content().header("Allow", route.methods())),
            (Route::Home, Method::Get | Method::Head) => Ok(page::home(request)),
            (Route::OpenApi, Method::Get | Method::Head) => Ok(openapi()),
            (Route::Health, Method::Get | Method::Head) => self.health(),
            (Route::Metrics, Method::Get | Method::Head) => self.show_metrics(),
            (Route::Locks(resource), Method::Post) => self.acquire_lock(resource, request, client),
            (Route::Lock(resource, id), Method::Get | Method::Head) => self.get_lock(resource, *id),
            (Route::Lock(resource, id), Method::Delete) => self.release_lock(resource, *id),
            (Route::Lock(resource, id), Method::Patch) => self.renew_lock(resource, *id, request),
            (Route::Status, Method::Get | Method::Head) => self.show_status(request),
            (Route::Resources, Method::Get | Method::Head) => self.list_resources(request),
            (Route::Resources, Method::Delete) => self.delete_all(request),
            (Route::Resource(name), Method::Get | Method::Head) => self.list_locks(name, request),
            (Route::Resource(name), Method::Delete) => self.delete_resource(name, request),
            _ => Err(Problem::method_not_allowed(route.methods())),
        }
    }

    /// Refuses what is wrong with a request whatever its body is.
    fn admit(
        &self,
        route: Result<Route, Problem>,
        request: &Request<'_>,
    ) -> Result<Route, Problem> {
        require_one_host(request)?;
        refuse_cross_site(request)?;
        let route = route?;
        match route {
            Route::Resources | Route::Resource(_) | Route::Status
                if self.access == Access::Denied =>
            {
                Err(access::denied())
            }
            Route::Server if request.method != Method::Options => {
                Err(Problem::bad_request("the target * is for OPTIONS alone"))
            }
            route if !route.has(request.method) => {
                Err(Problem::method_not_allowed(route.methods()))
            }
            route => Ok(route),
        }
    }
}

/// What a lock is changes from one moment to the next: a cache on the way must not keep it.
fn uncached(response: Response) -> Response {
    response.header("Cache-Control", "no-store")
}

impl Service {
    /// `GET /health`
    fn health(&self) -> Result<Response, Problem> {
        if self.shutting_down.load(Ordering::SeqCst) {
            let detail = "the server is shutting down";
            return Err(Problem::new(Status::ServiceUnavailable, detail).closing());
        }
        Ok(Response::new(Status::Ok).body("application/json", b"{\"status\":\"ok\"}\n".to_vec()))
    }

    /// `GET /metrics`
    fn show_metrics(&self) -> Result<Response, Problem> {
        let text = self.metrics.to_text(self.locks.totals()).map_err(|error| {
            Problem::new(Status::InternalServerError, format!("cannot write them: {error}"))
        })?;
        Ok(Response::new(Status::Ok).body(metrics::CONTENT_TYPE, text.into_bytes()))
    }
}

/// What every request and answer looks like, in OpenAPI 3.1.
const OPENAPI: &str = include_str!("../../docs/openapi.json");

fn openapi() -> Response {
    Response::new(Status::Ok).body("application/json", OPENAPI.as_bytes().to_vec())
}

/// RFC 9112, section 3.2: a request in HTTP/1.1 names exactly one host.
fn require_one_host(request: &Request<'_>) -> Result<(), Problem> {
    match request.host {
        Singleton::One(host) if !message::is_host(host) => {
            Err(Problem::bad_request("the Host header is not a host name with an optional port"))
        }
        Singleton::None | Singleton::One("") if !request.http_1_0 => {
            let detail = "the Host header is missing or empty: HTTP/1.1 asks for exactly one";
            Err(Problem::bad_request(detail))
        }
        Singleton::Several => {
            Err(Problem::bad_request("there are several Host headers: exactly one is allowed"))
        }
        Singleton::One(_) | Singleton::None => Ok(()),
    }
}

/// A page of another site must not release locks through the browser of somebody who can
/// reach this server.
fn refuse_cross_site(request: &Request<'_>) -> Result<(), Problem> {
    if matches!(request.method, Method::Get | Method::Head) {
        return Ok(());
    }
    let foreign = request.origin.is_some_and(|origin| !is_own_origin(origin, request.host));
    if foreign || request.sec_fetch_site == Some("cross-site") {
        let detail = "a browser sent this request for another site, which is not allowed";
        return Err(Problem::new(Status::Forbidden, detail));
    }
    Ok(())
}

fn is_own_origin(origin: &str, host: Singleton<'_>) -> bool {
    let (Some((scheme, authority)), Singleton::One(host)) = (origin.split_once("://"), host) else {
        return false;
    };
    let default_port = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
    // An Origin never names its scheme's default port; a Host may.
    let host = host.strip_suffix(default_port).unwrap_or(host);
    authority.eq_ignore_ascii_case(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::sync::Mutex;
    use std::time::SystemTime;

    use super::departures::Departures;
    use smol_str::SmolStr;

    use crate::lock::{
        Departure, Grant, IdempotencyKey, Lock, LockId, LockRequest, Refusal, ResourceName, Totals,
    };

    static ADDRESS: SmolStr = SmolStr::new_static("127.0.0.1");

    /// Fails at each call, as no lock manager should, unless it grants.
    #[derive(Default)]
    struct Broken {
        /// Runs while a request waits, which is granted then.
        grants_after: Option<Box<dyn Fn() + Send + Sync>>,
        abandoned: AtomicBool,
    }

    impl LockManager for Broken {
        fn acquire(
            &self,
            _: &ResourceName,
            request: LockRequest,
            _: Option<IdempotencyKey>,
            on_wait: &mut dyn FnMut(Departure),
        ) -> Result<Grant, Refusal> {
            let Some(while_waiting) = &self.grants_after else { panic!("acquire") };
            // The client leaves as it is granted: too late.
            on_wait(Departure::new(|| {}));
            while_waiting();
            let LockRequest { title, wait, lifetime, mode, client } = request;
            let (id, epoch) = (LockId::random(), SystemTime::UNIX_EPOCH);
            Ok(Grant {
                id,
                title,
                client,
                mode,
                wait,
                lifetime,
                since: epoch,
                expires: epoch,
                fencing_token: 1,
            })
        }
        fn abandon(&self, _: &ResourceName, _: LockId) {
            self.abandoned.store(true, Ordering::SeqCst);
        }
        fn find(&self, _: &ResourceName, _: LockId) -> Option<Lock> {
            panic!("find")
        }
        fn release(&self, _: &ResourceName, _: LockId) -> Result<(), Refusal> {
            panic!("release")
        }
        fn renew(&self, _: &ResourceName, _: LockId, _: Duration) -> Result<Grant, Refusal> {
            panic!("renew")
        }
        fn resources(&self, _: Option<&ResourceName>, _: usize) -> Vec<ResourceName> {
            panic!("resources")
        }
        fn locks(&self, _: &ResourceName) -> Vec<Lock> {
            panic!("locks")
        }
        fn delete_resource(&self, _: &ResourceName) -> Result<(), Refusal> {
            panic!("delete_resource")
        }
        fn delete_all(&self) -> Result<(), Refusal> {
            panic!("delete_all")
        }
        fn totals(&self) -> Totals {
            panic!("totals")
        }
        fn shut_down(&self) {
            panic!("shut_down")
        }
    }

    /// The two ends of a connection, the client's first.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let remote = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (remote, listener.accept().unwrap().0)
    }

    fn request<'a>(method: Method, target: &'a str) -> Request<'a> {
        Request {
            method,
            target,
            host: Singleton::One("locks.example:8888"),
            body: br#"{"title":"t","wait":0,"lifetime":1}"#,
            ..Request::UNREADABLE
        }
    }

    fn service(locks: Arc<Broken>) -> Service {
        let limit = Duration::from_secs(1_000_000_000);
        Service {
            locks,
            access: Access::Open,
            limits: RequestLimits { max_wait: limit, max_lifetime: limit },
            base_url: None,
            metrics: Arc::default(),
            shutting_down: AtomicBool::new(false),
        }
    }

    #[test]
    fn a_panic_in_one_request_answers_500_and_the_next_is_served() {
        let service = service(Arc::default());
        let (_remote, socket) = pair();
        let departures = Departures::new().unwrap();
        let client = Client::new(&socket, &ADDRESS, &departures);
        for (method, target) in [
            (Method::Post, "/locks/a"),
            (Method::Get, "/resources"),
            (Method::Delete, "/locks/a/aa4e181e17374148a21b30d9dcb941f9"),
        ] {
            let response = service.answer(&request(method, target), client);
            assert_eq!(response.status.code(), 500, "{target}");
        }
        let home = service.answer(&request(Method::Get, "/"), client);
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
            let locks = Arc::new(Broken { grants_after, abandoned: AtomicBool::new(false) });
            let service = service(Arc::clone(&locks));
            let departures = Departures::new().unwrap();
            let client = Client::new(&socket, &ADDRESS, &departures);
            let response = service.answer(&request(Method::Post, "/locks/a"), client);
            assert_eq!(response.status.code(), if leaves { 408 } else { 201 });
            assert_eq!(locks.abandoned.load(Ordering::SeqCst), leaves);
        }
    }

    #[test]
    fn only_the_own_site_may_change_locks_through_a_browser() {
        let own = Singleton::One("Locks.Example:8888");
        assert!(is_own_origin("http://locks.example:8888", own));
        assert!(is_own_origin("https://locks.example:8888", own));
        assert!(is_own_origin("http://a.example", Singleton::One("a.example:80")));
        assert!(is_own_origin("https://a.example", Singleton::One("a.example:443")));
        for foreign in ["http://locks.example", "http://evil.example:8888", "null", "", "://"] {
            assert!(!is_own_origin(foreign, own), "{foreign:?}");
        }
        assert!(!is_own_origin("https://a.example", Singleton::One("a.example:80")));
        assert!(!is_own_origin("http://a.example", Singleton::None));
    }
}
