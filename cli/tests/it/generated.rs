//! What the package build takes: manual pages for every command, completion scripts named as the shells want them.

use crate::stage::Stage;

#[test]
fn every_command_has_a_page_and_every_shell_a_script() {
    let stage = Stage::new();
    let run = stage.run(&["__generate", stage.path().to_str().unwrap()], "");
    assert_eq!((run.code, run.out.as_str(), run.err.as_str()), (Some(0), "", ""));
    for page in ["ployzctl", "ployzctl-mesh", "ployzctl-mesh-join", "ployzctl-machine-invite-create"] {
        let text = std::fs::read_to_string(stage.path().join(format!("man/{page}.1"))).unwrap();
        assert!(text.contains(".SH SYNOPSIS"), "{page}");
        assert!(!text.contains("stray") && !text.contains("__generate"), "{page}");
    }
    for script in ["bash/ployzctl", "zsh/_ployzctl", "fish/ployzctl.fish"] {
        let text = std::fs::read_to_string(stage.path().join("completions").join(script)).unwrap();
        assert!(text.contains("PLOYZ_COMPLETE"), "{script}");
    }
}
