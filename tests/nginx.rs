//! nginx with its defaults, in front of the server.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::harness::{Client, Server, wait_until};
use crate::needed;

/// An nginx with nothing configured but where to pass requests on to.
pub(crate) struct Nginx {
    process: Child,
    pub(crate) port: u16,
    _dir: TempDir,
}

impl Nginx {
    pub(crate) fn before(server: &Server) -> Self {
        needed::insist("nginx");
        let dir = TempDir::new().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (path, there) = (dir.path().display(), server.port());
        let configuration = format!(
            "daemon off; pid {path}/pid; error_log {path}/error.log;
            events {{}}
            http {{
                access_log off;
                client_body_temp_path {path}/a; proxy_temp_path {path}/b; fastcgi_temp_path {path}/c;
                uwsgi_temp_path {path}/d; scgi_temp_path {path}/e;
                server {{
                    listen 127.0.0.1:{port};
                    location / {{ proxy_pass http://127.0.0.1:{there}; }}
                }}
            }}"
        );
        let file = dir.path().join("nginx.conf");
        fs::write(&file, configuration).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-e").arg(dir.path().join("error.log")).arg("-c").arg(file);
        let process = command.stdout(Stdio::null()).spawn().unwrap();
        wait_until("nginx listens", || Client::try_connect(port).is_some());
        Self { process, port, _dir: dir }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
    }
}
