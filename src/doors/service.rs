//! The way of a request to its door: found in the table, admitted, counted, answered.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use log::{Level, debug, log_enabled};

use super::access::{self, Access};
use super::call::{Call, HandlerResult, PendingResult};
use super::caller::Caller;
use super::context::Context;
use super::door::{AnsweredBy, Named, OTHER, Outcome};
use super::forwarded_client::ForwardedClient;
use super::rights::Requirement;
use super::routes::{self, Route};
use super::settings::{Environment, Settings};
use super::{acquire, body, origin, refusals};
use crate::current_locks::CurrentLocks;
use crate::http::departures::Client;
use crate::http::{Problem, Request, Response, Status, Target, Unreadable};
use crate::lock::{Pending, Reason};
use crate::metrics::{Histogram, Metrics};

/// What a server that may forward a request needs to know about it.
pub struct Handling {
    pub answered_by: AnsweredBy,
    /// It does no harm if it was carried out before.
    pub is_repeatable: bool,
    /// Its response goes on for as long as the client likes.
    pub is_stream: bool,
}

/// Answers the requests of all connections.
pub struct Service(Context);

impl Service {
    pub fn new(
        locks: Arc<dyn CurrentLocks>,
        settings: Settings,
        environment: Environment,
        metrics: Arc<Metrics>,
    ) -> Self {
        let request_times = metrics.request_times(&routes::kinds());
        Self(Context::new(locks, settings, environment, metrics, request_times))
    }

    /// `/health` fails from now on.
    pub fn shut_down(&self) {
        self.0.shutting_down.store(true, Ordering::SeqCst);
    }

    /// The response to one request, perhaps pending until a change is written. A panic becomes a
    /// 500 and affects no other request.
    pub fn answer(&self, request: &Request<'_>, client: Client<'_>) -> Pending<Response> {
        self.answer_for(request, client, None)
    }

    /// The same, for a client that another server may have authenticated.
    pub fn answer_for(
        &self,
        request: &Request<'_>,
        client: Client<'_>,
        forwarded_client: Option<&ForwardedClient>,
    ) -> Pending<Response> {
        let began = Instant::now();
        let route = Route::parse(&request.target, request.method);
        let error = error(&route);
        let record = RequestRecord::open(&self.0, request, &route, began);
        let answer = || {
            let answer = self.call(route, request, client, forwarded_client);
            answer.unwrap_or_else(|problem| Err(problem).into())
        };
        let answer = match panic::catch_unwind(AssertUnwindSafe(answer)) {
            Ok(Pending::Ready(answer)) => answer.into(),
            Ok(later) => later.or_if_it_panics(panicked(request)),
            Err(_) => panicked(request)().into(),
        };
        answer.map(move |answer| record.close(answer.unwrap_or_else(error)))
    }

    /// The response, if the head alone is enough to refuse the request.
    pub fn answer_to_head(&self, request: &Request<'_>, client: Client<'_>) -> Option<Response> {
        let began = Instant::now();
        let route = Route::parse(&request.target, request.method);
        let error = error(&route);
        let record = RequestRecord::open(&self.0, request, &route, began);
        let problem = self.admit(route, request, client).err()?;
        Some(record.close(error(problem)))
    }

    /// Authenticates the client of a request that is to be forwarded.
    ///
    /// # Errors
    /// The response that refuses the client.
    pub fn introduce(
        &self,
        request: &Request<'_>,
        client: Client<'_>,
    ) -> Result<ForwardedClient, Response> {
        let began = Instant::now();
        let route = Route::parse(&request.target, request.method);
        let error = error(&route);
        let record = RequestRecord::open(&self.0, request, &route, began);
        let forwarded_client = self
            .admit(route, request, client)
            .and_then(|route| self.forwarded_client(&route, request, client));
        forwarded_client.map_err(|problem| record.close(error(problem)))
    }

    /// How a request is to be handled by a server that may pass it on.
    pub fn handling(&self, request: &Request<'_>) -> Handling {
        let (answered_by, operation) = routes::lookup(request.target.path(), request.method);
        let is_options = request.method == "OPTIONS";
        Handling {
            answered_by: if is_options { AnsweredBy::Receiver } else { answered_by },
            is_repeatable: operation.is_some_and(|operation| operation.may_be_repeated(request)),
            is_stream: operation.is_some_and(|operation| operation.is_stream),
        }
    }

    /// Counts a request that was refused before it reached its door.
    pub fn count_refused(&self, request: &Request<'_>, reason: Reason) {
        match outcome(request) {
            Outcome::Acquisition => self.0.metrics.acquisition(Err(reason), Duration::ZERO),
            Outcome::Change => match body::change(request.body, self.0.settings.limits) {
                Ok(body::Change::Renewal(_)) => self.0.metrics.renewal_failed(reason),
                Ok(body::Change::Conversion(_)) => self.0.metrics.conversion(Err(reason)),
                Err(_) => {}
            },
            Outcome::Uncounted => {}
        }
    }

    /// Counts a renewal that was carried out but is answered as unknown. Other operations are
    /// counted elsewhere: a grant, for example, when it is given back.
    pub fn count_withheld(&self, request: &Request<'_>) {
        if outcome(request) == Outcome::Change
            && let Ok(body::Change::Renewal(_)) = body::change(request.body, self.0.settings.limits)
        {
            self.0.metrics.renewal_failed(Reason::OutcomeUnknown);
        }
    }

    /// Gives back the lock at this path, whose client did not get the response.
    pub fn give_back(&self, target: &Target<'_>) {
        if let Ok(Route { named: Named::Lock(resource, id), .. }) = Route::parse(target, "DELETE") {
            acquire::abandon(&*self.0.locks, &resource, id);
        }
    }

    /// The response to what could not be read.
    pub fn refuse(&self, error: Unreadable) -> Response {
        let response = uncached(Problem::from(error).into());
        debug!("a request that could not be read: {error:?} {}", response.status.code());
        response
    }

    /// The response for a problem that is found before the request reaches its door.
    pub fn error_response(&self, request: &Request<'_>, problem: Problem) -> Response {
        let error = error(&Route::parse(&request.target, request.method));
        uncached(error(problem))
    }

    /// The response to plain HTTP on a TLS port.
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
        forwarded_client: Option<&ForwardedClient>,
    ) -> PendingResult {
        let route = self.admit(route, request, client)?;
        let Some(operation) = route.operation(request.method) else {
            return Ok(Ok(Response::no_content().header("Allow", route.allow())).into());
        };
        if operation.requires.shows_locks() && forwarded_client.is_none() {
            self.0.site.admit_reader(request)?;
        }
        let requires = self.requires(operation.requires);
        let resource = route.resource();
        let caller = Caller::admit(&self.0, requires, resource, request, client, forwarded_client)?;
        operation.run(&Call { context: &self.0, request, caller }, &route.named)
    }

    fn forwarded_client(
        &self,
        route: &Route,
        request: &Request<'_>,
        client: Client<'_>,
    ) -> Result<ForwardedClient, Problem> {
        let operation = route.operation(request.method);
        let requires = operation.map_or(Requirement::Nothing, |operation| operation.requires);
        if requires.shows_locks() {
            self.0.site.admit_reader(request)?;
        }
        ForwardedClient::of(&self.0, self.requires(requires), request, client)
    }

    fn requires(&self, requires: Requirement) -> Requirement {
        match requires {
            Requirement::METRICS if self.0.settings.open_metrics => Requirement::Nothing,
            requires => requires,
        }
    }

    /// Refuses what is wrong with a request whatever its body is.
    fn admit(
        &self,
        route: Result<Route, Problem>,
        request: &Request<'_>,
        client: Client<'_>,
    ) -> Result<Route, Problem> {
        origin::require_one_host(request)?;
        self.0.site.admit(request, client.is_encrypted())?;
        let route = route?;
        if !(route.door.is_enabled)(&self.0.settings) {
            return Err(refusals::not_found());
        }
        if route.is_administrative() && self.0.settings.access == Access::Denied {
            return Err(access::denied());
        }
        match route {
            route if request.method == "OPTIONS" || route.operation(request.method).is_some() => {
                Ok(route)
            }
            route if route.is_server() => {
                Err(Problem::bad_request("the target * is for OPTIONS alone"))
            }
            route => Err(Problem::method_not_allowed(route.allow())),
        }
    }
}

/// Records a request in the metrics and the log when it has its response.
struct RequestRecord {
    times: Histogram,
    began: Instant,
    /// The request, if the log is to show it.
    shown: Option<String>,
}

impl RequestRecord {
    fn open(
        context: &Context,
        request: &Request<'_>,
        route: &Result<Route, Problem>,
        began: Instant,
    ) -> Self {
        let operation = route.as_ref().ok().and_then(|route| route.operation(request.method));
        let kind = operation.map_or(OTHER, |operation| operation.kind);
        let show = || format!("{} {}", request.method, request.target.as_str().escape_debug());
        let shown = log_enabled!(Level::Debug).then(show);
        Self { times: context.request_times.of(kind), began, shown }
    }

    fn close(self, response: Response) -> Response {
        self.times.observe(self.began.elapsed());
        if let Some(request) = self.shown {
            debug!("{request} {}", response.status.code());
        }
        uncached(response)
    }
}

/// What is answered if a request ends in a panic.
fn panicked(request: &Request<'_>) -> impl FnOnce() -> HandlerResult + Send + 'static {
    let request = format!("{} {:?}", request.method, request.target.as_str());
    move || {
        log::error!("a request ended in a panic: {request}");
        let detail = "the server failed at this request";
        Err(Problem::new(Status::InternalServerError, detail))
    }
}

fn outcome(request: &Request<'_>) -> Outcome {
    let (_, operation) = routes::lookup(request.target.path(), request.method);
    operation.map_or(Outcome::Uncounted, |operation| operation.outcome)
}

/// How an error is written where a request leads.
fn error(route: &Result<Route, Problem>) -> fn(Problem) -> Response {
    route.as_ref().map_or(Response::from, |route| route.door.error)
}

/// The state of a lock changes at any moment: caches must not keep it.
fn uncached(response: Response) -> Response {
    response.header("Cache-Control", "no-store")
}
