//! Every help screen is a golden text: a change of the command line is seen in review.

use crate::stage::{Stage, golden};

pub(crate) const SCREENS: &[&[&str]] = &[
    &[],
    &["mesh"],
    &["mesh", "list"],
    &["mesh", "status"],
    &["mesh", "create"],
    &["mesh", "init"],
    &["mesh", "start"],
    &["mesh", "stop"],
    &["mesh", "join"],
    &["mesh", "ready"],
    &["mesh", "destroy"],
    &["mesh", "self-record"],
    &["machine"],
    &["machine", "ls"],
    &["machine", "invite"],
    &["machine", "invite", "create"],
    &["machine", "invite", "list"],
    &["machine", "invite", "revoke"],
    &["deploy"],
    &["deploy", "preview"],
    &["deploy", "service"],
    &["deploy", "attach"],
    &["service"],
    &["service", "ls"],
    &["service", "inspect"],
    &["service", "logs"],
    &["service", "rm"],
    &["image"],
    &["image", "push"],
    &["cert"],
    &["cert", "import"],
    &["cert", "ls"],
    &["cert", "rm"],
    &["status"],
    &["doctor"],
    &["explain"],
    &["completions"],
    &["__generate"],
];

#[test]
fn help_screens_are_as_reviewed() {
    let stage = Stage::new();
    for words in SCREENS {
        let mut arguments = words.to_vec();
        arguments.push("--help");
        let run = stage.run(&arguments, "");
        assert_eq!((run.code, run.err.as_str()), (Some(0), ""), "{words:?}");
        let name = if words.is_empty() { "help.txt".into() } else { format!("help-{}.txt", words.join("-")) };
        golden(&name, &run.out);
    }
}

#[test]
fn version_names_the_program() {
    let run = Stage::new().run(&["--version"], "");
    assert_eq!(run.out, format!("ployzctl {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(run.code, Some(0));
}

#[test]
fn no_command_is_a_usage_error_that_shows_the_help() {
    for words in [&[][..], &["mesh"], &["machine"], &["machine", "invite"], &["service"], &["image"]] {
        let run = Stage::new().run(words, "");
        assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{words:?}");
        assert!(run.err.contains("Usage: ployzctl"), "{}", run.err);
    }
}
