//! Manifests and flags on their way to the daemon: what is asked when they are right, and how they are refused.

use crate::fake::{Fake, Script};
use crate::stage::{Run, Stage, request};
use crate::usage::refused;
use serde_json::{Value, json};

const SHOP: &str = "version = 1\nnamespace = \"shop\"\n[[services]]\nname = \"web\"\nimage = \"web:1\"\n";

/// A run in a directory with these files, and what the daemon saw.
fn beside(files: &[(&str, &str)], arguments: &[&str]) -> (Run, Vec<Value>) {
    let stage = Stage::new();
    for (name, text) in files {
        std::fs::write(stage.path().join(name), text).unwrap();
    }
    let fake = Fake::start(stage.path(), Script::ok("done"));
    let mut command = stage.command(arguments);
    let output = command
        .current_dir(stage.path())
        .env("PLOYZ_SOCKET", &fake.socket)
        .stdin(std::process::Stdio::null());
    let output = output.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (Run { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }, fake.asked())
}

fn services(request: &Value) -> Vec<&str> {
    let services = request["manifest"]["services"].as_array().unwrap();
    services.iter().map(|service| service["name"].as_str().unwrap()).collect()
}

#[test]
fn a_manifest_is_read_from_a_file_from_standard_input_or_from_its_usual_place() {
    let json = r#"{"version": 1, "namespace": "shop", "services": [{"name": "web", "image": "web:1"}]}"#;
    for (files, arguments) in [
        (&[("shop.toml", SHOP)][..], &["deploy", "-f", "shop.toml"][..]),
        (&[("ployz.toml", SHOP)], &["deploy"]),
        (&[("ployz.json", json)], &["deploy"]),
        (&[("ployz.toml", SHOP), ("other", json)], &["deploy", "--file=other"]),
    ] {
        let (run, asked) = beside(files, arguments);
        assert_eq!((run.code, asked.len()), (Some(0), 1), "{run:?}");
        assert_eq!((&asked[0]["command"], services(&asked[0])), (&json!("deploy"), vec!["web"]));
        assert!(asked[0].get("only").is_none() && asked[0].get("expected_baseline").is_none());
    }
    for text in [SHOP, json] {
        let asked = request(&["deploy", "-f", "-"], text);
        assert_eq!((&asked["command"], &asked["manifest"]["namespace"]), (&json!("deploy"), &json!("shop")));
    }
    let asked = request(&["deploy", "-f", "-", "--expect-baseline", "0011223344556677"], SHOP);
    assert_eq!(asked["expected_baseline"], "0011223344556677");
}

#[test]
fn a_preview_never_asks_for_a_deploy() {
    for arguments in [
        &["deploy", "-n", "-f", "-"][..],
        &["deploy", "--dry-run", "--file", "-"],
        &["deploy", "preview", "-f", "-"],
        &["--json", "deploy", "preview", "-f", "-"],
        &["deploy", "--plain", "preview", "-f", "-"],
    ] {
        assert_eq!(request(arguments, SHOP)["command"], "deploy-preview", "{arguments:?}");
    }
    let flags = ["deploy", "service", "web", "--image", "web:1", "--namespace", "shop", "-n"];
    assert_eq!(request(&flags, "")["command"], "deploy-preview");
    let remove = request(&["service", "rm", "shop/web", "-n"], "");
    let manifest = json!({"version": 1, "namespace": "shop", "services": []});
    assert_eq!(remove, json!({"command": "deploy-preview", "manifest": manifest, "only": "web"}));
}

#[test]
fn one_service_is_deployed_from_flags() {
    let line = "deploy service web --image web:2 --namespace shop -p 8080:80 -p 53:53/udp -e A=1 -e B=x=y \
        -v data:/srv:ro --restart on-failure --replicas 3 -- serve --port 80";
    let words: Vec<&str> = line.split_whitespace().collect();
    let asked = request(&words, "");
    assert_eq!((&asked["command"], &asked["only"]), (&json!("deploy"), &json!("web")));
    let service = &asked["manifest"]["services"][0];
    assert_eq!(service["image"], "web:2");
    assert_eq!(service["command"], json!(["serve", "--port", "80"]));
    assert_eq!(service["env"], json!({"A": "1", "B": "x=y"}));
    assert_eq!((&service["ports"][0]["port"], &service["ports"][0]["publish"]), (&json!(80), &json!(8080)));
    assert_eq!(service["ports"][1]["protocol"], "udp");
    assert_eq!(service["volumes"], json!([{"source": "data", "target": "/srv", "read_only": true}]));
    assert_eq!(service["restart"], "on-failure");
    assert_eq!(service["placement"], json!({"mode": "replicated", "replicas": 3}));
}

#[test]
fn secret_variables_come_through_standard_input() {
    let line =
        ["deploy", "service", "web", "--image", "i", "--namespace", "shop", "-e", "A=1", "--env-stdin"];
    let asked = request(&line, "# keys\nKEY=a b=c\n\nOTHER=\r\n");
    assert_eq!(asked["manifest"]["services"][0]["env"], json!({"A": "1", "KEY": "a b=c", "OTHER": ""}));
    assert!(refused(&line, "").err.contains("no list of variables on standard input"));
    let run = refused(&line, "A=secret\n");
    assert!(run.err.contains("A is given twice") && !run.err.contains("secret"), "{}", run.err);
    assert!(!refused(&line, "secret\n").err.contains("secret"));
}

#[test]
fn a_bad_manifest_is_refused_with_file_line_key_and_suggestion() {
    let (run, asked) =
        beside(&[("shop.toml", &SHOP.replace("image", "imgae"))], &["deploy", "-f", "shop.toml"]);
    let want = "error [MANIFEST_INVALID]: the manifest is invalid; nothing was sent to ployzd\n  \
        caused by: shop.toml:5: services[0].imgae: unknown key; did you mean image?\n  \
        hint: the message names file, line and key; docs/manifest.schema.json is the schema\n";
    assert_eq!((run.code, run.out.as_str(), run.err.as_str()), (Some(2), "", want));
    assert!(asked.is_empty());
    for (text, why) in [
        ("", "standard input:1: version: is missing"),
        (
            "version = 2\nnamespace = \"shop\"",
            "standard input:1: version: this version of ployz reads version = 1",
        ),
        ("{\n\"version\": 1,\n\"namespace\": \"Shop\"}", "standard input:3: namespace: "),
        ("version = 1\nnamespace = ", "standard input:2: "),
    ] {
        let run = refused_manifest(text);
        assert!(run.err.contains(why), "{}", run.err);
    }
    let long = format!("{SHOP}# {}", "x".repeat(300_000));
    assert!(refused_manifest(&long).err.contains("at most 262144 are allowed"));
}

fn refused_manifest(text: &str) -> Run {
    for arguments in [&["deploy", "-f", "-"][..], &["deploy", "preview", "-f", "-"]] {
        let run = refused(arguments, text);
        assert!(run.err.starts_with("error [MANIFEST_INVALID]: "), "{}", run.err);
    }
    refused(&["deploy", "-n", "-f", "-"], text)
}

#[test]
fn with_json_a_refused_manifest_is_an_envelope_too() {
    let (run, _) = beside(&[("ployz.toml", "version = 1")], &["--json", "deploy", "preview"]);
    let envelope: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(
        (run.code, &envelope["code"], &envelope["ok"]),
        (Some(2), &json!("MANIFEST_INVALID"), &json!(false))
    );
    assert_eq!(envelope["causes"][0], "ployz.toml:1: namespace: is missing");
}

#[test]
fn what_cannot_be_read_is_named() {
    let text = |files: &[(&str, &str)], arguments: &[&str]| {
        let (run, asked) = beside(files, arguments);
        assert_eq!((run.code, run.out.as_str(), asked.len()), (Some(2), "", 0), "{run:?}");
        run.err
    };
    let none = text(&[], &["deploy"]);
    assert!(none.contains("there is no ployz.toml and no ployz.json here; name one with -f FILE"), "{none}");
    let both = text(&[("ployz.toml", SHOP), ("ployz.json", "{}")], &["deploy", "preview"]);
    assert!(both.contains("both ployz.toml and ployz.json are here"), "{both}");
    let missing = text(&[], &["deploy", "-f", "none.toml"]);
    assert!(missing.contains("cannot read the manifest none.toml: No such file or directory"), "{missing}");
    assert!(text(&[], &["deploy", "-f", "."]).contains("Is a directory"));
}

#[test]
fn a_manifest_that_is_no_text_is_refused_with_its_line() {
    let stage = Stage::new();
    let path = stage.path().join("bad.toml");
    std::fs::write(&path, b"version = 1\nnamespace = \"\xff\"\n").unwrap();
    let run = stage.run(&["deploy", "-f", path.to_str().unwrap()], "");
    assert_eq!(run.code, Some(2));
    assert!(run.err.contains("bad.toml:2: is not UTF-8 text"), "{}", run.err);
}

#[test]
fn flags_that_cannot_be_are_refused_by_name() {
    let base = ["deploy", "service", "web", "--image", "web:1", "--namespace", "shop"];
    for (more, why) in [
        (&["-p", "80"][..], "--publish: \"80\" is not HOST:CONTAINER"),
        (&["-e", "A"], "--env: expected KEY=VALUE"),
        (&["-v", "/srv:/srv"], "--volume: \"/srv\" is a path of the machine"),
        (&["--restart", "sometimes"], "possible values: unless-stopped, always, on-failure, no"),
        (&["--replicas", "0"], "--replicas"),
        (&["--replicas", "501"], "--replicas"),
    ] {
        let run = refused(&[&base[..], more].concat(), "");
        assert!(run.err.contains(why), "{}", run.err);
    }
    assert!(refused(&["deploy", "service", "web", "--namespace", "shop"], "").err.contains("--image"));
    let name = refused(&["deploy", "service", "Web", "--image", "web:1", "--namespace", "shop"], "");
    assert!(name.err.contains("deploy service: NAME: "), "{}", name.err);
}

#[test]
fn flags_of_deploy_do_not_stand_before_its_subcommands() {
    for flags in [&["-f", "-"][..], &["-n"], &["--expect-baseline", "0011223344556677"]] {
        refused(&[&["deploy"], flags, &["preview", "-f", "-"]].concat(), SHOP);
    }
    refused(&["deploy", "-n", "--expect-baseline", "0011223344556677", "-f", "-"], SHOP);
}
