//! A run without a machine: a process that sleeps, and consoles of our own.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use super::*;
use crate::machine::{Child, Port};
use crate::report::Outcome;

struct Fake {
    live: Live,
    linux: UnixStream,
    hypervisor: UnixStream,
}

fn fake(seconds: &'static str, timeout: Duration) -> Fake {
    let system = "[[partition]]\nname = \"p\"\ncpus = [0]\nmemory = \"4M\"\nprogram = \"p.elf\"\n";
    let loaded = cloister_manifest::parse(Path::new("fake"), system).unwrap();
    let fold = Fold::new(Some(&loaded.manifest), "qemu", "tcg", 1, Default::default());
    let mut child = Child::spawn("sleep", tempfile::tempdir().unwrap(), |command| {
        command.arg(seconds);
    })
    .unwrap();
    let mut attach = |port| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        child
            .attach(port, File::from(OwnedFd::from(theirs)))
            .unwrap();
        ours
    };
    let linux = attach(Port::Linux);
    let hypervisor = attach(Port::Hypervisor);
    let grace = Duration::from_millis(50);
    let image = tempfile::tempdir().unwrap();
    Fake {
        live: Live::new(child, fold, timeout, grace, None, image),
        linux,
        hypervisor,
    }
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn the_last_record_ends_the_run() {
    let mut fake = fake("600", MINUTE);
    fake.linux
        .write_all(b"hello\x1ecloister-user-space\n world")
        .unwrap();
    fake.hypervisor
        .write_all(
            b"Cloister is up\n\x1e{\"console\":{\"name\":\"p\",\"text\":\"hi\\nyou\\n\"}}\n\
              \x1enot json\n\x1e{\"end\":{\"outcome\":\"completed\",\"detail\":\"\"}}\n",
        )
        .unwrap();
    fake.live.wait_for(Console::Linux, "world", MINUTE).unwrap();
    fake.live
        .wait_for(Console::Partition("p".into()), "you", MINUTE)
        .unwrap();
    // What was found is not found again.
    assert!(
        fake.live
            .wait_for(
                Console::Partition("p".into()),
                "hi",
                Duration::from_millis(1)
            )
            .is_err()
    );
    let Fake {
        live,
        linux: _linux,
        hypervisor: _hypervisor,
    } = fake;
    drop((_linux, _hypervisor));
    let finished = live.finish().unwrap();
    assert_eq!(finished.report.outcome, Outcome::Completed);
    assert_eq!(finished.linux_console, "hello world");
    assert!(
        finished
            .hypervisor_console
            .starts_with("Cloister is up\nunreadable record")
    );
    assert_eq!(
        finished.report.partition("p").unwrap().console,
        ["hi", "you"]
    );
}

#[test]
fn a_run_that_does_not_end_is_ended() {
    let Fake {
        live,
        linux,
        hypervisor,
    } = fake("600", Duration::from_millis(200));
    drop((linux, hypervisor));
    let finished = live.finish().unwrap();
    assert_eq!(finished.report.outcome, Outcome::Timeout);
    assert!(finished.completed().is_err());
}

#[test]
fn what_came_before_the_exit_is_not_lost() {
    let Fake {
        live,
        linux: _linux,
        mut hypervisor,
    } = fake("0.2", MINUTE);
    hypervisor.write_all(b"last words").unwrap();
    drop((_linux, hypervisor));
    let finished = live.finish().unwrap();
    assert_eq!(finished.hypervisor_console, "last words\n");
    assert_eq!(finished.report.outcome, Outcome::HypervisorPanic);
}

#[test]
fn waiting_ends_with_the_run_and_shows_the_consoles() {
    let Fake {
        mut live,
        mut linux,
        hypervisor,
    } = fake("0.2", MINUTE);
    linux.write_all(b"something else\n").unwrap();
    drop((linux, hypervisor));
    let error = live
        .wait_for(Console::Linux, "login:", MINUTE)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("the run ended") && error.contains("something else"),
        "{error}"
    );
}

#[test]
fn keys_reach_linux() {
    use std::io::Read;
    let mut fake = fake("600", MINUTE);
    fake.live.send(b"ls\n").unwrap();
    let mut typed = [0; 3];
    fake.linux.read_exact(&mut typed).unwrap();
    assert_eq!(&typed, b"ls\n");
}
