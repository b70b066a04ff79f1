//! What is refused before the daemon is asked: exit code 2 and a sentence. And what it is asked when all is right.

use crate::fake::{Fake, Script};
use crate::stage::{Run, Stage, request};
use serde_json::json;

/// A run that must not reach the daemon.
pub(crate) fn refused(arguments: &[&str], stdin: &str) -> Run {
    let stage = Stage::new();
    let fake = Fake::start(stage.path(), Script::ok("done"));
    let run = stage.run_with(&fake, arguments, stdin);
    assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{arguments:?}: {run:?}");
    assert!(run.err.starts_with("error"), "{}", run.err);
    assert!(fake.asked().is_empty(), "{arguments:?} reached the daemon");
    run
}

#[test]
fn a_name_is_given_or_read_not_both_and_not_neither() {
    for verb in ["init", "destroy"] {
        refused(&["mesh", verb, "prod", "--name-stdin"], "prod");
        refused(&["mesh", verb], "prod");
        assert!(
            refused(&["mesh", verb, "--name-stdin"], " \n").err.contains("no network name on standard input")
        );
        refused(&["mesh", verb, "--name-stdin"], "not a name\n");
    }
}

#[test]
fn a_token_is_given_or_read_not_both_and_not_neither() {
    refused(&["mesh", "join", "--token", "eyJsecret", "--token-stdin"], "eyJsecret");
    refused(&["mesh", "join"], "eyJsecret");
    assert!(
        refused(&["mesh", "join", "--token-stdin"], "")
            .err
            .contains("no token on standard input: it is empty")
    );
    assert!(refused(&["mesh", "join", "--token", " "], "").err.contains("--token is empty"));
    assert!(refused(&["mesh", "join", "--token-stdin"], &"x".repeat(70_000)).err.contains("too long"));
}

#[test]
fn a_token_is_never_printed_back() {
    for arguments in [
        &["mesh", "join", "eyJsecret"][..],
        &["mesh", "join", "--token-stdin", "eyJsecret"],
        &["mesh", "join", "--token", "eyJsecret", "--token-stdin"],
        &["mesh", "join", "--token", "eyJsecret", "eyJsecret"],
        &["mesh", "join", "--token=eyJsecret", "--bogus"],
    ] {
        let run = refused(arguments, "eyJsecret");
        assert!(!run.err.contains("secret"), "{}", run.err);
    }
}

#[test]
fn a_private_key_comes_from_a_file_or_from_standard_input_and_is_never_printed_back() {
    let stage = Stage::new();
    let chain = stage.path().join("a.crt");
    std::fs::write(&chain, "chain").unwrap();
    let chain = chain.to_str().unwrap();
    refused(&["cert", "import", "--cert", chain], "secret");
    refused(&["cert", "import", "--cert", chain, "--key", chain, "--key-stdin"], "secret");
    refused(&["cert", "import", "--key-stdin"], "secret");
    for stdin in [" \n", &"secret".repeat(40_000)] {
        let run = refused(&["cert", "import", "--cert", chain, "--key-stdin"], stdin);
        assert!(
            run.err.contains("private key from standard input") && !run.err.contains("secret"),
            "{run:?}"
        );
    }
    let missing = refused(&["cert", "import", "--cert", chain, "--key", "/nonexistent/a.key"], "");
    assert!(missing.err.contains("/nonexistent/a.key"), "{missing:?}");
    let fake = Fake::start(stage.path(), Script::ok("done"));
    let run = stage.run_with(&fake, &["cert", "import", "--cert", chain, "--key-stdin"], "secret\n");
    assert_eq!(run.code, Some(0), "{run:?}");
    let asked = json!({ "command": "certificate-import", "chain": "chain", "key": "secret\n" });
    assert_eq!(fake.asked(), [asked]);
}

#[test]
fn a_byte_order_mark_and_line_ends_of_windows_are_no_part_of_what_is_read() {
    let token = json!({"command": "mesh-join", "token": "eyJhbGciOiJ.c2ln"});
    assert_eq!(request(&["mesh", "join", "--token-stdin"], "\u{feff}eyJhbGciOiJ.c2ln\r\n"), token);
    let named = json!({"command": "mesh-init", "network": "prod"});
    assert_eq!(request(&["mesh", "init", "--name-stdin"], "\u{feff}prod\r\n"), named);
    let manifest = "\u{feff}{\"version\": 1,\r\n\"namespace\": \"shop\"}\r\n";
    let asked = request(&["deploy", "-f", "-"], manifest);
    assert_eq!(asked["manifest"]["namespace"], "shop", "{asked}");
    let flags = ["deploy", "service", "web", "--image", "web", "--namespace", "shop", "--env-stdin"];
    let asked = request(&flags, "\u{feff}A=1\r\nB=2\r\n");
    assert_eq!(asked["manifest"]["services"][0]["env"], json!({"A": "1", "B": "2"}), "{asked}");
}

#[test]
fn text_in_utf_16_is_named_as_such() {
    let stage = Stage::new();
    let path = stage.path().join("shop.toml");
    std::fs::write(&path, b"\xff\xfev\0e\0r\0").unwrap();
    let run = refused(&["deploy", "-f", path.to_str().unwrap()], "");
    assert!(run.err.contains("shop.toml:1: is UTF-16: save it as UTF-8"), "{run:?}");
}

#[test]
fn names_and_numbers_are_checked_here() {
    for name in ["", "-a", "a-", "A", "a_b", "../x", &"x".repeat(64)] {
        for verb in ["create", "status", "start", "init", "destroy"] {
            refused(&["mesh", verb, "--", name], "");
        }
    }
    // What removes is named, whatever else could be understood.
    refused(&["mesh", "destroy"], "");
    for endpoint in ["n1.example.org", "127.0.0.1", "203.0.113.7:0"] {
        refused(&["machine", "invite", "create", "--endpoint", endpoint], "");
    }
    assert!(refused(&["mesh", "create", "A"], "").err.contains("1-63 characters of [a-z0-9-]"));
    for ttl in ["0", "604801", "-1", "soon"] {
        refused(&["machine", "invite", "create", &format!("--ttl-secs={ttl}")], "");
    }
    refused(&["machine", "invite", "revoke", "xyz"], "");
    assert!(refused(&["explain", "weather"], "").err.contains("netns, tunnel, wireguard"));
    for service in ["web", "shop/", "/web", "shop/web/1", "Shop/web"] {
        refused(&["service", "inspect", service], "");
    }
    refused(&["service", "logs", "shop/web", "--since", "yesterday"], "");
    refused(&["nonsense"], "");
}

#[test]
fn json_and_plain_exclude_each_other_wherever_they_stand() {
    for arguments in [
        &["--json", "--plain", "status"][..],
        &["status", "--json", "--plain"],
        &["--json", "status", "--plain"],
        &["mesh", "--plain", "ready", "--json"],
    ] {
        refused(arguments, "");
    }
}

#[test]
fn each_command_asks_for_what_it_says() {
    let token = "eyJhbGciOiJ.c2ln";
    for (line, stdin, want) in [
        ("status", "", json!({"command": "status"})),
        ("explain", "", json!({"command": "explain", "component": null})),
        ("explain nats", "", json!({"command": "explain", "component": "nats"})),
        ("explain containers", "", json!({"command": "explain", "component": null, "containers": true})),
        ("mesh list", "", json!({"command": "mesh-list"})),
        ("network list", "", json!({"command": "mesh-list"})),
        ("mesh status prod", "", json!({"command": "mesh-status", "network": "prod"})),
        ("mesh status", "", json!({"command": "mesh-status"})),
        ("mesh start", "", json!({"command": "mesh-start"})),
        (
            "machine invite create --endpoint 203.0.113.7 --endpoint [fd12::1]:4000",
            "",
            json!({"command": "invite-create", "ttl_secs": 600, "endpoints": ["203.0.113.7", "[fd12::1]:4000"]}),
        ),
        ("mesh create prod", "", json!({"command": "mesh-create", "network": "prod"})),
        ("mesh init prod", "", json!({"command": "mesh-init", "network": "prod"})),
        ("mesh init --name-stdin", "prod\n", json!({"command": "mesh-init", "network": "prod"})),
        ("mesh start prod", "", json!({"command": "mesh-start", "network": "prod"})),
        (
            "mesh start prod --restored",
            "",
            json!({"command": "mesh-start", "network": "prod", "restored": true}),
        ),
        ("mesh stop", "", json!({"command": "mesh-stop", "force": false})),
        ("mesh stop --force", "", json!({"command": "mesh-stop", "force": true})),
        ("mesh join --token eyJhbGciOiJ.c2ln", "", json!({"command": "mesh-join", "token": token})),
        (
            "mesh join --token-stdin",
            "  eyJhbGciOiJ.c2ln\r\n",
            json!({"command": "mesh-join", "token": token}),
        ),
        ("mesh ready", "", json!({"command": "mesh-ready"})),
        ("mesh destroy prod", "", json!({"command": "mesh-destroy", "network": "prod", "local": false})),
        (
            "mesh destroy --local --name-stdin",
            "prod",
            json!({"command": "mesh-destroy", "network": "prod", "local": true}),
        ),
        ("mesh self-record", "", json!({"command": "mesh-self-record"})),
        ("machine ls", "", json!({"command": "machine-list"})),
        ("machine list", "", json!({"command": "machine-list"})),
        ("machine invite create", "", json!({"command": "invite-create", "ttl_secs": 600})),
        (
            "machine invite create --ttl-secs 604800",
            "",
            json!({"command": "invite-create", "ttl_secs": 604_800}),
        ),
        ("machine invite list", "", json!({"command": "invite-list"})),
        (
            "machine invite revoke 00112233445566ff",
            "",
            json!({"command": "invite-revoke", "invite": "00112233445566ff"}),
        ),
        ("service ls", "", json!({"command": "service-list"})),
        ("service list --namespace shop", "", json!({"command": "service-list", "namespace": "shop"})),
        (
            "service inspect shop/web",
            "",
            json!({"command": "service-inspect", "namespace": "shop", "service": "web"}),
        ),
        (
            "service rm shop/web",
            "",
            json!({"command": "service-remove", "namespace": "shop", "service": "web"}),
        ),
        (
            "service logs shop/web",
            "",
            json!({"command": "service-logs", "namespace": "shop", "service": "web", "tail": 100}),
        ),
        (
            "service logs shop/web -n 5 --since @17 --instance web-0-abc12",
            "",
            json!({"command": "service-logs", "namespace": "shop", "service": "web", "tail": 5,
                "after": 17_000_000_000_u64, "instance": "web-0-abc12"}),
        ),
        ("mesh ls", "", json!({"command": "mesh-list"})),
        ("machine invite ls", "", json!({"command": "invite-list"})),
        (
            "service logs shop/web --tail 7",
            "",
            json!({"command": "service-logs", "namespace": "shop", "service": "web", "tail": 7}),
        ),
        (
            "service logs shop/web --since @17",
            "",
            json!({"command": "service-logs", "namespace": "shop", "service": "web", "tail": u32::MAX,
                "after": 17_000_000_000_u64}),
        ),
    ] {
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(request(&words, stdin), want, "{line}");
    }
}
