//! Administrative requests: what is locked, and deleting it.

use std::time::SystemTime;

use log::info;

use super::message::{Request, Response, Status};
use super::problem::Problem;
use super::{Service, hal};
use crate::lock::{Refusal, ResourceName};

impl Service {
    /// `GET /status`
    pub(super) fn show_status(&self, request: &Request<'_>) -> Result<Response, Problem> {
        self.access.check(request.authorization)?;
        let resources = self.locks.resources(None, usize::MAX).into_iter().map(|resource| {
            let locks = self.locks.locks(&resource);
            (resource, locks)
        });
        // What has been released since the names were listed has no place in it.
        let held: Vec<_> = resources.filter(|(_, locks)| !locks.is_empty()).collect();
        // After the locks: none of them is newer.
        Ok(hal::status(SystemTime::now(), &held))
    }

    /// `GET /resources`
    pub(super) fn list_resources(&self, request: &Request<'_>) -> Result<Response, Problem> {
        self.access.check(request.authorization)?;
        Ok(hal::resources(&self.locks.resources(None, usize::MAX)))
    }

    /// `DELETE /resources`
    pub(super) fn delete_all(&self, request: &Request<'_>) -> Result<Response, Problem> {
        let admin = self.access.check(request.authorization)?;
        self.locks.delete_all()?;
        info!("{admin} deleted all locks");
        Ok(Response::no_content())
    }

    /// `GET /resources/{name}`
    pub(super) fn list_locks(
        &self,
        resource: &ResourceName,
        request: &Request<'_>,
    ) -> Result<Response, Problem> {
        self.access.check(request.authorization)?;
        Ok(hal::locks(resource, &self.locks.locks(resource)))
    }

    /// `DELETE /resources/{name}`
    pub(super) fn delete_resource(
        &self,
        resource: &ResourceName,
        request: &Request<'_>,
    ) -> Result<Response, Problem> {
        let admin = self.access.check(request.authorization)?;
        self.locks.delete_resource(resource).map_err(|refusal| match refusal {
            Refusal::NoSuchLock => {
                Problem::new(Status::NotFound, "this resource has no locks").because(refusal.name())
            }
            refusal => refusal.into(),
        })?;
        info!("{admin} deleted all locks of {resource}");
        Ok(Response::no_content())
    }
}
