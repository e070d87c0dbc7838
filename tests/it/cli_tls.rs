//! TLS and mutual TLS on the command line, with the keys of `fixtures/tls`: what works, and what is said of what does not.

use std::net::SocketAddr;

use crate::process::{Server, Told, run, siltstone};

fn file(name: &str) -> String {
    format!("{}/tests/it/fixtures/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A server with these settings of TLS, and its address by the name that its certificate holds.
fn start(settings: &[(&str, &str)]) -> (Server, String, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let set = settings
        .iter()
        .map(|(key, name)| format!("--set=grpc.{key}={}", file(name)));
    let set: Vec<String> = set.collect();
    let server = Server::start(dir.path(), &set.iter().map(String::as_str).collect::<Vec<_>>());
    let port = server.address.parse::<SocketAddr>().unwrap().port();
    (server, format!("localhost:{port}"), dir)
}

const SERVER: [(&str, &str); 2] = [("tls_certificate", "server.pem"), ("tls_key", "server.key")];

fn list(server: &str, flags: &[(&str, &str)]) -> Told {
    let mut command = siltstone(&["topic", "list", "--json", "--server", server]);
    for (flag, name) in flags {
        command.args([*flag, &file(name)]);
    }
    run(command)
}

fn done() -> Told {
    (Some(0), String::new(), String::new())
}

fn failed(code: i32, says: &str) -> Told {
    (Some(code), String::new(), format!("siltstone: {says}\n"))
}

#[test]
fn a_server_with_tls_is_reached_by_https_and_its_authority() {
    let (_server, address, _dir) = start(&SERVER);
    let https = format!("https://{address}");
    assert_eq!(list(&https, &[("--tls-ca", "ca.pem")]), done());
    let mut by_environment = siltstone(&["topic", "list", "--json"]);
    by_environment.env("SILTSTONE_SERVER", &https);
    by_environment.env("SILTSTONE_TLS_CA", file("ca.pem"));
    assert_eq!(run(by_environment), done());
    assert_eq!(
        list(&https, &[("--tls-ca", "client.pem")]),
        failed(
            1,
            &format!(
                "no secure connection to {address}: the server's certificate is not accepted (UnknownIssuer); \
                 is it the right server, and the right authority?"
            )
        )
    );
}

#[test]
fn a_server_that_asks_for_a_certificate_takes_one_of_its_authority() {
    let (_server, address, _dir) = start(&[SERVER[0], SERVER[1], ("tls_client_ca", "ca.pem")]);
    let https = format!("https://{address}");
    let identity = [
        ("--tls-ca", "ca.pem"),
        ("--tls-certificate", "client.pem"),
        ("--tls-key", "client.key"),
    ];
    assert_eq!(list(&https, &identity), done());
    let mut by_environment = siltstone(&["topic", "list", "--json", "--server", &https]);
    by_environment.env("SILTSTONE_TLS_CA", file("ca.pem"));
    by_environment.env("SILTSTONE_TLS_CERTIFICATE", file("client.pem"));
    by_environment.env("SILTSTONE_TLS_KEY", file("client.key"));
    assert_eq!(run(by_environment), done());
    // It depends on the order of packets whether the refusal comes as such or as a closed connection.
    let (code, _, stderr) = list(&https, &identity[..1]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("asks for a client certificate"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn plain_text_and_tls_that_meet_are_told_apart() {
    let (_server, address, _dir) = start(&SERVER);
    let (code, _, stderr) = list(&address, &[]);
    assert_eq!(code, Some(1));
    let lost = format!("siltstone: connection to {address} is lost: ");
    assert!(stderr.starts_with(&lost), "{stderr}");
    let perhaps = " before its first answer, as from a server that speaks TLS (https://) or no gRPC at all; ";
    assert!(stderr.contains(perhaps), "{stderr}");
    let (_plain, address, _dir) = start(&[]);
    assert_eq!(
        list(&format!("https://{address}"), &[("--tls-ca", "ca.pem")]),
        failed(
            1,
            &format!(
                "no secure connection to {address}: the server speaks plain text; name it with http://, \
                 or turn on its TLS"
            )
        )
    );
}

#[test]
fn flags_of_tls_that_cannot_work_are_wrong_usage() {
    let ca = ("--tls-ca", "ca.pem");
    for (server, flags, says) in [
        (
            "h:1",
            vec![ca],
            "--tls-ca is for TLS, and \"h:1\" is plain text: name the server with https://",
        ),
        (
            "https://h:1",
            vec![],
            "an https server needs --tls-ca (or SILTSTONE_TLS_CA): the certificate of the authority that vouches for it",
        ),
        (
            "https://h:1",
            vec![ca, ("--tls-certificate", "client.pem")],
            "--tls-certificate needs --tls-key, its private key",
        ),
        (
            "https://h:1",
            vec![ca, ("--tls-key", "client.key")],
            "--tls-key needs --tls-certificate, the certificate it belongs to",
        ),
    ] {
        let says = format!("{says}; see siltstone topic list --help");
        assert_eq!(list(server, &flags), failed(2, &says));
    }
    let not_pem = format!("{} holds no CERTIFICATE in PEM form", file("client.key"));
    assert_eq!(
        list("https://h:1", &[("--tls-ca", "client.key")]),
        failed(1, &not_pem)
    );
}

#[test]
fn authorities_of_the_environment_do_not_stand_in_the_way_of_a_plain_server() {
    let (_server, address, _dir) = start(&[]);
    let mut command = siltstone(&["topic", "list", "--json", "--server", &address]);
    command.env("SILTSTONE_TLS_CA", file("ca.pem"));
    assert_eq!(run(command), done());
}
