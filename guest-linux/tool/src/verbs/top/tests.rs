//! The screen, drawn without a terminal.

use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::address::Address;
use crate::snapshot::{Core, Machine, Partition, ReasonCount};
use crate::verbs::top::app::{App, Then};
use crate::verbs::top::screen::{draw, short};

fn core(number: u32, owner: &str, exits: u64) -> Core {
    Core {
        core: number,
        owner: Some(owner.into()),
        dataplane: vec!["quiesce", "strict"],
        exits,
        since_quiesce: u64::from(number),
        interrupts_since_quiesce: 0,
        quiesce_count: 1,
        user_hypercalls: 0,
        by_reason: vec![ReasonCount {
            reason: "cpuid",
            total: exits,
            since_quiesce: 0,
            cycles: exits * 100,
            worst: 777,
            last_rip: Address(0x10_1234),
        }],
    }
}

fn machine(exits: u64) -> Machine {
    let partition = |name: &str, core: u32, index| Partition {
        name: name.into(),
        state: "running",
        cpus: vec![core],
        memory: 64 << 20,
        starts: 3,
        restarts: 0,
        exit_code: None,
        allowed: vec!["quiesce"],
        debug_imposed: false,
        violations: 0,
        last_violation: None,
        detail: None,
        inside: 1,
        index,
    };
    Machine {
        vendor: "amd",
        tsc_hz: 0,
        memory_left: 0,
        calls: 0,
        refused_stores: 0,
        linux: vec![0],
        partitions: vec![partition("zebra", 1, 0), partition("ant", 2, 1)],
        cores: vec![
            core(0, "linux", exits),
            core(1, "zebra", 5),
            core(2, "ant", 5),
        ],
    }
}

fn shown(app: &mut App, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, app)).unwrap();
    terminal.backend().to_string()
}

fn press(app: &mut App, code: KeyCode) -> Then {
    app.key(KeyEvent::new(code, KeyModifiers::NONE))
}

#[test]
fn rates_details_and_order_are_on_the_screen() {
    let mut app = App::new(machine(1000), Duration::from_secs(1));
    app.advance(machine(1500), 0.5);
    app.console = "one\ntwo\x1b[2J\n".into();
    let text = shown(&mut app, 80, 24);
    let line = |text: &str, words: &str| -> usize {
        let found = text.lines().position(|line| line.contains(words));
        found.unwrap_or_else(|| panic!("no {words:?} in\n{text}"))
    };
    let linux = text.lines().nth(line(&text, "linux")).unwrap();
    assert!(linux.contains("1000") && linux.contains("100"), "{linux}");
    assert!(line(&text, "zebra") < line(&text, "ant"));
    line(&text, "core 1: zebra");
    line(&text, "started 3 times");
    line(&text, "two?[2J");
    line(&text, "qs..");

    assert_eq!(press(&mut app, KeyCode::Char('s')), Then::GoOn);
    let text = shown(&mut app, 140, 24);
    assert!(line(&text, "ant") < line(&text, "zebra"));
    line(&text, "quiesce|strict");
    line(&text, "cpuid 1000");

    press(&mut app, KeyCode::Home);
    let text = shown(&mut app, 80, 24);
    line(&text, "core 2: ant");
    press(&mut app, KeyCode::Enter);
    assert!(!shown(&mut app, 80, 24).contains("worst"));
    assert_eq!(press(&mut app, KeyCode::Char('q')), Then::Quit);
}

#[test]
fn long_addresses_keep_their_end() {
    let address = Address(0xffff_ffff_8123_4567);
    assert_eq!(short(address, 10), "…f81234567");
    assert_eq!(short(address, 18), "0xffffffff81234567");
    assert_eq!(short(Address(0x10_1000), 10), "0x101000");
}

#[test]
fn any_size_can_be_drawn() {
    let mut app = App::new(machine(1), Duration::from_secs(1));
    for (width, height) in [(1, 1), (3, 2), (20, 5), (80, 7), (300, 100)] {
        shown(&mut app, width, height);
    }
}
