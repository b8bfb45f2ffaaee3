//! Draws the screen.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table};

use crate::address::Address;
use crate::snapshot::{Core, Partition};
use crate::verbs::list::names;
use crate::verbs::top::app::App;
use crate::verbs::top::or_dash;
use crate::verbs::top::reading;

/// Columns from which on there is room for flags in words and for reasons.
const WIDE: u16 = 110;
/// Lines of a partition's console.
const CONSOLE_LINES: usize = 4;

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, app: &mut App) {
    let cores = u16::try_from(app.reading.cores.len()).unwrap_or(u16::MAX);
    let own = cores.saturating_add(3);
    let area = frame.area();
    let (list, rest) = if app.details {
        let most = area.height.saturating_sub(2) / 2;
        (Constraint::Length(own.min(most.max(4))), Constraint::Min(0))
    } else {
        (Constraint::Min(0), Constraint::Length(0))
    };
    let rows = [Constraint::Length(1), list, rest, Constraint::Length(1)];
    let [top, list, details, bottom] = Layout::vertical(rows).areas(area);
    frame.render_widget(headline(app), top);
    cores_table(frame, list, app);
    if app.details {
        owner(frame, details, app);
    }
    frame.render_widget(keys(), bottom);
}

fn headline(app: &App) -> Line<'static> {
    let machine = &app.machine;
    let running = machine
        .partitions
        .iter()
        .filter(|partition| partition.state == "running");
    Line::from(vec![
        " Cloister ".bold().reversed(),
        format!(
            " {}, {} cores; {} of {} partitions running; every {:.1} s",
            machine.vendor,
            machine.cores.len(),
            running.count(),
            machine.partitions.len(),
            app.interval.as_secs_f64()
        )
        .into(),
    ])
}

fn keys() -> Line<'static> {
    let key = |key: &'static str| Span::styled(key, Style::new().bold());
    Line::from(vec![
        key(" q"),
        " quit  ".into(),
        key("↑↓"),
        " select  ".into(),
        key("Enter"),
        " details  ".into(),
        key("s"),
        " sort  ".into(),
        key("r"),
        " reverse  ".into(),
        key("+-"),
        " interval  ".into(),
        "reading costs no exit".dim(),
    ])
}

fn state_style(state: &str) -> Style {
    match state {
        "running" => Style::new().fg(Color::Green),
        "violated" | "failed" => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        "stopped" => Style::new().fg(Color::Yellow),
        _ => Style::new(),
    }
}

/// A count that should be 0.
fn count(value: u64, matters: bool) -> Cell<'static> {
    let cell = Cell::from(Line::from(value.to_string()).right_aligned());
    if matters && value != 0 {
        cell.style(Style::new().fg(Color::Red).bold())
    } else {
        cell
    }
}

fn right(text: impl Into<String>) -> Cell<'static> {
    Cell::from(Line::from(text.into()).right_aligned())
}

/// Flags as letters in fixed places: quiesce, strict, debug, populate.
fn letters(flags: &[&str]) -> String {
    ["quiesce", "strict", "debug", "populate"]
        .iter()
        .zip("qsdp".chars())
        .map(|(flag, letter)| if flags.contains(flag) { letter } else { '.' })
        .collect()
}

fn cores_table(frame: &mut Frame<'_>, area: Rect, app: &mut App) {
    let wide = area.width >= WIDE;
    let head = [
        "core",
        "owner",
        "state",
        "flags",
        "exits/s",
        "cyc/exit",
        "quiet",
        "intr",
        "restarts",
        "last rip",
        "exits/s by reason",
    ];
    let widths = [4, 10, 8, if wide { 23 } else { 5 }, 7, 8, 5, 4, 8, 10];
    let mut widths: Vec<Constraint> = widths.map(Constraint::Length).to_vec();
    // Beside the others, the spaces between them, and the border.
    let room = area.width.saturating_sub(70).clamp(10, 18);
    widths[9] = Constraint::Length(room);
    if wide {
        widths.push(Constraint::Min(10));
    }
    let head = head.iter().enumerate().map(|(column, name)| {
        let numeric = matches!(column, 4..=8);
        let line = Line::from(*name);
        Cell::from(if numeric { line.right_aligned() } else { line })
    });
    let head = Row::new(head.take(widths.len())).style(Style::new().bold().underlined());
    let lines = app.lines();
    let place = lines.iter().position(|line| line.core == app.selected);
    let rows: Vec<Row<'_>> = lines.iter().map(|line| row(line, wide, room)).collect();
    let title = format!(
        " cores by {}{} ",
        app.sort.name(),
        if app.reverse { ", reversed" } else { "" }
    );
    let table = Table::new(rows, widths)
        .header(head)
        .block(Block::bordered().title(title))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    app.table.select(place);
    frame.render_stateful_widget(table, area, &mut app.table);
}

/// `room` is that for the last RIP.
fn row(line: &reading::Line, wide: bool, room: u16) -> Row<'static> {
    let quiet = line.dataplane.contains(&"quiesce");
    let state = line.state.unwrap_or("-");
    let flags = if wide {
        names(&line.dataplane)
    } else {
        letters(&line.dataplane)
    };
    let mut cells = vec![
        right(line.core.to_string()),
        Cell::from(or_dash(line.owner.clone())),
        Cell::from(state).style(state_style(state)),
        Cell::from(flags),
        right(format!("{:.0}", line.exits_per_second)),
        right(or_dash(line.cycles_per_exit)),
        count(line.since_quiesce, quiet),
        count(line.interrupts_since_quiesce, quiet),
        right(or_dash(line.restarts)),
        Cell::from(or_dash(line.last_rip.map(|rip| short(rip, room)))),
    ];
    if wide {
        let reasons = line.by_reason.iter().take(3);
        let reasons: Vec<String> = reasons
            .map(|(reason, rate)| format!("{reason} {rate:.0}"))
            .collect();
        cells.push(Cell::from(reasons.join(", ")));
    }
    Row::new(cells)
}

/// An address of which the beginning gives way to the end.
pub(super) fn short(address: Address, room: u16) -> String {
    let text = address.to_string();
    match text.len().checked_sub(usize::from(room)) {
        None | Some(0) => text,
        Some(over) => format!("…{}", text.get(over + 1..).unwrap_or("")),
    }
}

/// The selected core and the partition that owns it.
fn owner(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let Some(core) = app.machine.cores.iter().find(|c| c.core == app.selected) else {
        return;
    };
    let mut partitions = app.machine.partitions.iter();
    let partition = partitions.find(|p| p.cpus.contains(&core.core));
    let name = core.owner.as_deref().unwrap_or("nobody");
    let block = Block::bordered().title(format!(" core {}: {name} ", core.core));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let mut text = partition.map_or_else(Vec::new, about);
    if partition.is_some() {
        text.extend(console(&app.console));
    }
    let height = u16::try_from(text.len()).unwrap_or(u16::MAX);
    let [reasons, rest] =
        Layout::vertical([Constraint::Min(0), Constraint::Length(height)]).areas(inner);
    frame.render_widget(reasons_table(core, app), reasons);
    frame.render_widget(Paragraph::new(text), rest);
}

fn reasons_table(core: &Core, app: &App) -> Table<'static> {
    let head = [
        "reason", "exits/s", "total", "quiet", "mean", "worst", "last rip",
    ];
    let head = head.iter().enumerate().map(|(column, name)| {
        let line = Line::from(*name);
        let numeric = matches!(column, 1..=5);
        Cell::from(if numeric { line.right_aligned() } else { line })
    });
    let reading = app.reading.cores.iter().find(|line| line.core == core.core);
    let rate = |reason: &str| {
        let mut rates = reading.iter().flat_map(|line| &line.by_reason);
        rates.find(|(name, _)| *name == reason).map_or(0.0, |r| r.1)
    };
    let quiet = core.dataplane.contains(&"quiesce");
    let rows = core.by_reason.iter().map(|of| {
        Row::new([
            Cell::from(of.reason),
            right(format!("{:.0}", rate(of.reason))),
            right(of.total.to_string()),
            count(of.since_quiesce, quiet),
            right((of.cycles / of.total.max(1)).to_string()),
            right(of.worst.to_string()),
            Cell::from(of.last_rip.to_string()),
        ])
    });
    let widths = [18, 8, 10, 6, 10, 12, 18].map(Constraint::Length);
    Table::new(rows, widths).header(Row::new(head).style(Style::new().bold()))
}

/// A partition in words.
fn about(partition: &Partition) -> Vec<Line<'static>> {
    let mut all = vec![Line::from(vec![
        Span::styled(partition.state, state_style(partition.state)),
        format!(
            ", started {} times, {} after violations; {} MiB; may ask for {}{}",
            partition.starts,
            partition.restarts,
            partition.memory >> 20,
            names(&partition.allowed),
            if partition.debug_imposed {
                "; debug imposed"
            } else {
                ""
            }
        )
        .into(),
    ])];
    if let Some(code) = partition.exit_code {
        all.push(Line::from(format!("exit code {code}")));
    }
    if let Some(detail) = &partition.detail {
        all.push(Line::from(format!("failed: {detail}")).fg(Color::Red));
    }
    if let Some(violation) = &partition.last_violation {
        let text = format!(
            "{} violations; the last: {} on core {} at rip {}",
            partition.violations, violation.reason, violation.core, violation.rip
        );
        all.push(Line::from(text).fg(Color::Red));
    }
    all
}

fn console(text: &str) -> Vec<Line<'static>> {
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(CONSOLE_LINES);
    let shown = lines.get(from..).unwrap_or(&[]).iter();
    shown
        .map(|line| {
            let clean = line.chars().map(|c| if c.is_control() { '?' } else { c });
            Line::from(clean.collect::<String>()).dim()
        })
        .collect()
}
