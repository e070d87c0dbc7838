//! Where a server is: `HOST:PORT`, with or without a scheme.
//!
//! `http` (or no scheme) is plain text, `https` is TLS. A missing port is 9095. What is not here: name resolution and
//! connecting.

use std::fmt;

use super::Error;

/// The port of the gRPC door when none is named.
const DEFAULT_PORT: u16 = 9095;

/// A server's address, checked.
///
/// ```
/// use siltstone::client::{Error, Security, ServerAddress};
///
/// let address = ServerAddress::parse("https://store.example")?;
/// assert_eq!(address.security(), Security::Tls);
/// assert_eq!(address.to_string(), "store.example:9095");
/// assert!(matches!(ServerAddress::parse("ftp://store"), Err(Error::Address { .. })));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerAddress {
    security: Security,
    /// Host and port; an IPv6 address in brackets.
    authority: String,
}

/// Whether the connection is encrypted.
///
/// ```
/// use siltstone::client::{Security, ServerAddress};
///
/// let address = ServerAddress::parse("store.example:9000")?;
/// assert_eq!((address.security(), address.uri().as_str()), (Security::Plain, "http://store.example:9000"));
/// # Ok::<(), siltstone::client::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Security {
    /// Plain text.
    Plain,
    /// TLS; the server's certificate is verified.
    Tls,
}

impl ServerAddress {
    /// Reads `HOST`, `HOST:PORT`, `http://HOST:PORT` or `https://HOST:PORT`; one slash at the end is allowed.
    ///
    /// # Errors
    /// [`Error::Address`] when the text is none of these.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let fail = |reason: &str| Error::Address {
            address: text.to_owned(),
            reason: reason.to_owned(),
        };
        let (security, rest) = match text.split_once("://") {
            None => (Security::Plain, text),
            Some(("http", rest)) => (Security::Plain, rest),
            Some(("https", rest)) => (Security::Tls, rest),
            Some((scheme, _)) => return Err(fail(&format!("scheme {scheme:?} is neither http nor https"))),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@']) || rest.contains(char::is_whitespace) {
            return Err(fail("it is not HOST:PORT"));
        }
        let (host, port) = split_port(rest);
        if host.is_empty() {
            return Err(fail("the host is missing"));
        }
        if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
            return Err(fail("an IPv6 address stands in brackets: [::1]:9095"));
        }
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => port
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| fail("the port is not a number from 1 to 65535"))?,
        };
        Ok(Self {
            security,
            authority: format!("{host}:{port}"),
        })
    }

    /// Returns whether the connection is encrypted.
    pub fn security(&self) -> Security {
        self.security
    }

    /// Returns the address as a URI.
    pub fn uri(&self) -> String {
        let scheme = match self.security {
            Security::Plain => "http",
            Security::Tls => "https",
        };
        format!("{scheme}://{}", self.authority)
    }
}

/// Splits at the last colon, unless that lies inside the brackets of an IPv6 address.
fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let shown = match ServerAddress::parse(text) {
            Ok(address) => address.uri(),
            Err(error) => error.to_string(),
        };
        assert_eq!(shown, expected, "{text}");
    }

    #[test]
    fn an_address_needs_neither_scheme_nor_port() {
        check("127.0.0.1:9095", "http://127.0.0.1:9095");
        check("localhost", "http://localhost:9095");
        check("http://log.example:80/", "http://log.example:80");
        check("https://log.example", "https://log.example:9095");
        check("[::1]:7", "http://[::1]:7");
        check("[::1]", "http://[::1]:9095");
    }

    #[test]
    fn what_is_no_address_is_refused_with_a_reason() {
        check(
            "ftp://x:1",
            "\"ftp://x:1\" is not a server's address: scheme \"ftp\" is neither http nor https",
        );
        check("", "\"\" is not a server's address: the host is missing");
        check(
            "h:port",
            "\"h:port\" is not a server's address: the port is not a number from 1 to 65535",
        );
        check(
            "h:0",
            "\"h:0\" is not a server's address: the port is not a number from 1 to 65535",
        );
        check(
            "::1:80",
            "\"::1:80\" is not a server's address: an IPv6 address stands in brackets: [::1]:9095",
        );
        check(
            "h:1/path",
            "\"h:1/path\" is not a server's address: it is not HOST:PORT",
        );
    }
}
