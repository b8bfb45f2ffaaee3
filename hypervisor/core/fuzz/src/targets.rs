//! What is fuzzed: each parser, decoder and decision of the core crate that
//! reads what a guest or a boot module wrote. A target panics when a promise
//! of its function is broken.

use cloister_abi::hypercall::BusySource;
use cloister_abi::{BACKTRACE_FRAMES, Dataplane, Hypercall};
use cloister_core::acpi::{self, Fadt};
use cloister_core::bzimage::{
    BOOT_PARAMS_SIZE, BootData, E820Entry, E820Kind, Kernel, boot_params,
};
use cloister_core::decode::{self, MAX_LENGTH, Mode};
use cloister_core::elf::Program;
use cloister_core::icr::{self, DeliveryMode, Ipi, LogicalId, OwnCore};
use cloister_core::iommu::{self, Reserved};
use cloister_core::multiboot;
use cloister_core::pci::{
    self, Address, Claim, ConfigSpace, FunctionInfo, Judge, Message, Verdict,
};
use cloister_core::policy::io::{self, IoFacts, PortAccess};
use cloister_core::policy::msr::{self, MsrContext};
use cloister_core::policy::{Guest, Vendor, dataplane};
use cloister_core::route::Route;
use cloister_core::walk::{self, Access, Paging};

/// A target.
pub type Target = fn(&[u8]);

/// Every target, by the name of its corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("elf", elf),
    ("madt", madt),
    ("fadt", fadt),
    ("aml", aml),
    ("mcfg", mcfg),
    ("config", config),
    ("dmar", dmar),
    ("ivrs", ivrs),
    ("multiboot", multiboot),
    ("bzimage", bzimage),
    ("decode", decode),
    ("hypercall", hypercall),
    ("msr", msr),
    ("port", port),
    ("ipi", ipi),
    ("walk", walk),
    ("backtrace", backtrace),
    ("scan", scan),
    ("route", route),
    ("pci", pci),
];

/// Takes numbers off the front of the input; 0 where it has ended.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let (front, rest) = self.0.split_at(N.min(self.0.len()));
        for (to, from) in bytes.iter_mut().zip(front) {
            *to = *from;
        }
        self.0 = rest;
        bytes
    }

    fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.take())
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn bool(&mut self) -> bool {
        self.u8() & 1 != 0
    }
}

/// A partition's program: what is accepted lies in the partition's memory, in
/// order, and its bytes are in the file.
pub fn elf(data: &[u8]) {
    const MEMORY: u64 = 64 << 20;
    let Ok(program) = Program::parse(data, MEMORY) else {
        return;
    };
    assert!(program.end() <= MEMORY);
    let mut entered = false;
    for (index, segment) in program.segments().enumerate() {
        assert!(segment.gpa >= cloister_abi::shared::PROGRAM_BASE);
        assert!(segment.end() <= program.end());
        assert!(u64::try_from(segment.file.len()).is_ok_and(|size| size <= segment.memory_size));
        entered |= segment.execute && (segment.gpa..segment.end()).contains(&program.entry());
        for other in program.segments().skip(index + 1) {
            assert!(segment.end() <= other.gpa || other.end() <= segment.gpa);
        }
    }
    assert!(entered);
}

/// The MADT: the copy for Linux is a sound MADT with no core but the kept.
pub fn madt(data: &[u8]) {
    let keep = |id: u32| id & 1 == 0;
    if let Ok(cores) = acpi::madt_cores(data) {
        // An entry has at least two bytes.
        assert!(cores.count() <= data.len());
    }
    if let Ok(io_apics) = acpi::madt_io_apics(data) {
        assert!(io_apics.count() <= data.len());
    }
    let mut copy = vec![0; data.len()];
    let Ok(length) = acpi::filter_madt(data, &keep, &mut copy) else {
        return;
    };
    let copy = &copy[..length];
    assert_eq!(acpi::checksum(copy), 0);
    let cores = acpi::madt_cores(copy).expect("the copy is no MADT");
    for core in cores {
        let core = core.expect("the copy is damaged");
        assert!(core.enabled && keep(core.apic_id));
    }
    // A table without room is refused, not cut.
    assert!(acpi::filter_madt(data, &keep, &mut vec![0; length - 1]).is_err());
}

/// The FADT, and what is decided from it.
pub fn fadt(data: &[u8]) {
    let Ok(fadt) = Fadt::parse(data) else { return };
    assert!(fadt.blocks().all(|(port, length)| port != 0 && length != 0));
    let facts = IoFacts::new(&fadt, |_| None);
    assert!(facts.ports().all(|port| port != 0));
}

/// `\_S1` to `\_S5` in a DSDT or SSDT.
pub fn aml(data: &[u8]) {
    assert_eq!(acpi::sleep_type_s5(data), acpi::sleep_type(data, 5));
    for state in 0..=6 {
        let _ = acpi::sleep_type(data, state);
    }
    let mut table = data.to_vec();
    let found = (1..=4).filter(|&state| acpi::sleep_type(data, state).is_some());
    assert!(acpi::hide_sleep_states(&mut table) >= found.count());
    assert!((1..=4).all(|state| acpi::sleep_type(&table, state).is_none()));
    assert_eq!(table.len(), data.len());
}

/// The MCFG.
pub fn mcfg(data: &[u8]) {
    let _ = acpi::ecam(data);
}

/// VT-d's table: ranges are whole pages and not turned around.
pub fn dmar(data: &[u8]) {
    if let Ok(dmar) = iommu::dmar(data) {
        // A unit takes sixteen bytes, a scope eight.
        assert!(dmar.units.len() * 16 + dmar.io_apics.len() * 8 <= data.len());
        pages(&dmar.reserved);
    }
}

/// AMD-Vi's table: each IOMMU once.
pub fn ivrs(data: &[u8]) {
    if let Ok(ivrs) = iommu::ivrs(data) {
        for (index, unit) in ivrs.units.iter().enumerate() {
            let others = ivrs.units.iter().skip(index + 1);
            assert!(
                others
                    .clone()
                    .all(|other| other.registers != unit.registers)
            );
        }
        pages(&ivrs.reserved);
    }
}

fn pages(reserved: &[Reserved]) {
    for region in reserved {
        assert!(region.range.start <= region.range.end);
        assert_eq!((region.range.start | region.range.end) & 0xfff, 0);
    }
}

/// A function whose configuration space is the input; every other is not there.
struct Config<'a>(&'a [u8]);

impl ConfigSpace for Config<'_> {
    fn read(&self, at: Address, offset: u16) -> u32 {
        let byte = |n: u16| self.0.get(usize::from(offset + n)).copied();
        match at.0 {
            0 => u32::from_le_bytes([0, 1, 2, 3].map(|n| byte(n).unwrap_or(0))),
            _ => u32::MAX,
        }
    }

    fn write(&mut self, _: Address, _: u16, _: u32) {}
}

/// Whoever asks owns nothing but addresses below 4 GiB.
struct Owner;

impl Judge for Owner {
    fn is_foreign(&self, claim: Claim) -> bool {
        match claim {
            Claim::Memory(first, last) | Claim::Ports(first, last) => {
                assert!(first <= last);
                last >= 1 << 32
            }
        }
    }

    fn may_send(&self, message: Message) -> bool {
        message.address < 1 << 32
    }

    fn may_send_table(&self, _: &FunctionInfo) -> bool {
        false
    }

    fn is_way_to_partition(&self, first: u8, _: u8) -> bool {
        first == 7
    }
}

/// Configuration space and writes to it: what is found can be described, and a
/// partition never moves a BAR.
pub fn config(data: &[u8]) {
    let mut config = Config(data);
    let mut found = None;
    pci::scan(&mut config, |info| found = Some(info));
    let Some(info) = found else {
        return;
    };
    let _ = pci::msix_table_address(&config, &info);
    let mut input = Input(data);
    for _ in 0..data.len().min(256) / 8 {
        let (offset, width, value) = (input.u16() & 0xfff, input.u8() & 7, input.u32());
        let read = |offset: u16| config.read(info.address, offset);
        let verdict = pci::decide_own(&info, offset, width, value, read);
        if (0x10..0x28).contains(&offset) {
            assert!(!matches!(verdict, Verdict::Pass | Verdict::Messages));
        }
        let _ = pci::decide_linux(&info, (offset, width, value), read, &Owner);
    }
}

/// The boot loader's information.
pub fn multiboot(data: &[u8]) {
    let Ok(information) = multiboot::parse(data) else {
        return;
    };
    for module in &information.modules {
        assert!(module.range.start <= module.range.end);
        assert!(!module.name.contains(char::is_whitespace));
    }
    // What is behind the length that the header tells says nothing.
    let longer = [data, &[0xff; 16]].concat();
    assert_eq!(multiboot::parse(&longer), Ok(information));
}

/// A Linux kernel: what is accepted can be placed, and described to itself.
pub fn bzimage(data: &[u8]) {
    let Ok(kernel) = Kernel::parse(data) else {
        return;
    };
    assert!(kernel.payload().len() <= data.len());
    assert!(kernel.alignment().is_power_of_two());
    let placed = BootData {
        load_address: kernel.preferred_address(),
        command_line: 0x9_0000,
        initrd: Some((0x400_0000, 0x1234)),
        rsdp: 0xe_0000,
    };
    let ram = E820Entry {
        start: 0,
        length: 1 << 30,
        kind: E820Kind::Ram,
    };
    let mut page = [0xff; BOOT_PARAMS_SIZE];
    if boot_params(&mut page, &kernel, &placed, [ram].into_iter()).is_ok() {
        // Offset 0x1e8: one entry (Linux, "The Linux/x86 Boot Protocol").
        assert_eq!(page[0x1e8], 1);
    }
}

/// An instruction that touched device memory: one length, whoever is asked.
pub fn decode(data: &[u8]) {
    let mut input = Input(data);
    let mode = match input.u8() % 3 {
        0 => Mode::Bits64,
        1 => Mode::Bits32,
        _ => Mode::Bits16,
    };
    let seed = input.u64();
    let mut gpr = [0u64; 16];
    for (index, register) in (1u64..).zip(&mut gpr) {
        *register = seed.wrapping_mul(index);
    }
    let bytes = input.0.get(..MAX_LENGTH).unwrap_or(input.0);
    let length = decode::length(bytes, mode);
    if let Some(length) = length {
        assert!(length >= 1 && usize::from(length) <= bytes.len());
        // It does not depend on what follows.
        assert_eq!(decode::length(&bytes[..length.into()], mode), Some(length));
        assert_eq!(
            decode::length(&bytes[..usize::from(length) - 1], mode),
            None
        );
    }
    let check = |store: &decode::Store| {
        assert!(matches!(store.width, 1 | 2 | 4 | 8));
        assert!(store.width == 8 || store.value >> (8 * store.width) == 0);
        assert_eq!(Some(store.length), length);
    };
    let Ok(access) = decode::access(bytes, mode, &gpr) else {
        assert!(decode::store(bytes, mode, &gpr).is_err());
        return;
    };
    match access {
        decode::Access::Store(store) => {
            check(&store);
            assert_eq!(decode::store(bytes, mode, &gpr), Ok(store));
        }
        decode::Access::Load(load) => {
            assert!(matches!(load.width, 1 | 2 | 4 | 8) && load.register < 16);
            assert_eq!(Some(load.length), length);
            let _ = load.result(seed, !seed);
        }
        decode::Access::Exchange(store, load) => {
            check(&store);
            assert_eq!((store.length, store.width), (load.length, load.width));
        }
        decode::Access::StoreString(string) => check(&string.store),
    }
}

/// Number and argument of a hypercall.
pub fn hypercall(data: &[u8]) {
    let mut input = Input(data);
    let number = input.u64();
    if let Some(call) = Hypercall::from_number(number) {
        assert_eq!(call as u64, number);
    }
    let bits = input.u64();
    let allowed = Dataplane::from_bits_truncate(input.u64());
    if let Ok(flags) = dataplane::accept(bits, allowed) {
        assert!(Dataplane::from_bits(bits).is_some_and(|asked| flags.contains(asked)));
        assert!(allowed.with_implied().contains(flags));
        let quiet = Dataplane::STRICT | Dataplane::DEBUG;
        assert!(!flags.intersects(quiet) || flags.contains(Dataplane::QUIESCE));
    }
    let returned = input.u64().cast_signed();
    if let Some(source) = BusySource::from_return(returned) {
        assert_eq!(source.to_return(), returned);
    }
}

/// Reads and writes of MSRs: a permission bitmap lets through what is decided,
/// and a partition is never let at what it may not have.
pub fn msr(data: &[u8]) {
    let mut input = Input(data);
    let index = input.u32();
    let value = input.u64();
    let context = MsrContext {
        vendor: if input.bool() {
            Vendor::Intel
        } else {
            Vendor::Amd
        },
        guest: guest(&mut input),
        pat_direct: input.bool(),
        xapic_locked: input.bool(),
    };
    let covered = msr::BITMAP_RANGES
        .iter()
        .any(|range| range.contains(&index));
    assert!(covered || msr::exits_on_read(index, &context));
    assert!(covered || msr::exits_on_write(index, &context));
    let _ = msr::read(index, &context);
    let _ = msr::write(index, value, &context);
    let _ = msr::apic_base_write(value, input.u64(), input.bool());
}

fn guest(input: &mut Input<'_>) -> Guest {
    if input.bool() {
        Guest::Linux
    } else {
        Guest::Partition { apic: input.bool() }
    }
}

/// Port accesses: a partition's never reach the hardware, and Linux's inputs
/// always do.
pub fn port(data: &[u8]) {
    let mut input = Input(data);
    let facts = IoFacts {
        pm1a_control: input.u16(),
        pm1b_control: input.u16(),
        sleep_control: input.u16(),
        sleep_types: [(); 5].map(|()| input.bool().then(|| (input.u8(), input.u8()))),
        reset: input.bool().then(|| (input.u16(), input.u8())),
    };
    let access = PortAccess {
        port: input.u16(),
        width: [1, 2, 4][usize::from(input.u8() % 3)],
        output: input.bool().then(|| input.u32()),
    };
    let guest = guest(&mut input);
    let action = io::decide(&access, guest, &facts);
    match (guest, access.output) {
        (Guest::Partition { .. }, None) => assert_eq!(action, io::IoAction::Ones),
        (Guest::Partition { .. }, Some(_)) => assert_eq!(action, io::IoAction::Drop),
        (Guest::Linux, None) => assert_eq!(action, io::IoAction::Pass),
        (Guest::Linux, Some(_)) => {}
    }
}

/// Interprocessor interrupts: only the guest's own cores are named, and
/// hardware is asked for vectors and NMIs alone.
pub fn ipi(data: &[u8]) {
    let mut input = Input(data);
    let ipi = if input.bool() {
        Ipi::from_x2apic(input.u64())
    } else {
        Ipi::from_xapic(input.u32(), input.u32())
    };
    let sends = matches!(
        ipi.mode,
        DeliveryMode::Fixed | DeliveryMode::LowestPriority | DeliveryMode::Nmi
    );
    assert_eq!(ipi.hardware_low().is_some(), sends);
    let sender = u32::from(input.u8() % 8);
    let own = [(); 5].map(|()| OwnCore {
        apic_id: u32::from(input.u8() % 8),
        logical: match input.u8() % 3 {
            0 => LogicalId::from_xapic(input.u32(), input.u32()),
            1 => LogicalId::from_x2apic_id(input.u32()),
            _ => LogicalId::X2apic(input.u32()),
        },
    });
    let resolved = icr::resolve(&ipi, sender, own.into_iter());
    assert_eq!(resolved.targets >> own.len(), 0);
    assert!(resolved.indices().all(|index| index < own.len()));
}

/// Eight bytes of a guest's memory, made of the rest of the input again and
/// again; every eighth page cannot be read.
fn memory(bytes: &[u8], address: u64) -> Option<u64> {
    let words = bytes.len() / 8;
    if words == 0 || address >> 12 & 7 == 7 {
        return None;
    }
    // Pages differ, so that tables do.
    let word = (address >> 3).wrapping_add(address >> 12);
    let at = usize::try_from(word % u64::try_from(words).ok()?).ok()? * 8;
    bytes
        .get(at..at + 8)?
        .try_into()
        .ok()
        .map(u64::from_le_bytes)
}

/// A walk of the guest's page tables, which may loop: at most five reads, each
/// aligned, and the offset in the page is kept.
pub fn walk(data: &[u8]) {
    let mut input = Input(data);
    let paging = Paging {
        cr0: input.u64(),
        cr3: input.u64(),
        cr4: input.u64(),
        efer: input.u64(),
    };
    let va = input.u64();
    let access = Access {
        write: input.bool(),
        user: input.bool(),
        execute: input.bool(),
    };
    let mut reads = 0;
    let mut read = |address: u64| {
        assert!(address.is_multiple_of(8));
        reads += 1;
        memory(input.0, address)
    };
    let found = walk::translate(&mut read, &paging, va, access);
    assert!(reads <= 5);
    if let Ok(address) = found {
        assert_eq!(address & 0xfff, va & 0xfff);
        // Less is granted to a user's write than to a supervisor's read.
        let again = walk::translate(
            &mut |address| memory(input.0, address),
            &paging,
            va,
            Access::READ,
        );
        assert!(access.execute || again == Ok(address));
    }
}

/// A backtrace over a stack that may point anywhere.
pub fn backtrace(data: &[u8]) {
    let mut input = Input(data);
    let (rip, rbp) = (input.u64(), input.u64());
    let mut reads = 0;
    let read = |address: u64| {
        assert!(address.is_multiple_of(8));
        reads += 1;
        memory(input.0, address)
    };
    let frames = walk::backtrace(read, rip, rbp);
    assert_eq!(frames.first(), Some(&rip));
    assert!(frames.len() <= BACKTRACE_FRAMES);
    assert!(reads <= 2 * BACKTRACE_FRAMES);
}

/// A kernel's stack without frame pointers, searched for return addresses.
pub fn scan(data: &[u8]) {
    let mut input = Input(data);
    let (rip, rsp) = (input.u64(), input.u64());
    let mut reads = 0;
    let read = |address: u64| {
        assert!(address.is_multiple_of(8));
        reads += 1;
        memory(input.0, address)
    };
    let code = |address: u64| {
        let [bytes @ .., _] = memory(input.0, address & !7)?.to_le_bytes();
        Some(bytes)
    };
    let frames = walk::scan(read, code, rip, rsp);
    assert_eq!(frames.first(), Some(&rip));
    assert!(frames.len() <= BACKTRACE_FRAMES);
    // Of the kernel's text only, and only so much of the stack.
    assert!(
        frames
            .iter()
            .skip(1)
            .all(|frame| frame >> 31 == (1 << 33) - 1)
    );
    assert!(reads <= 256);
}

/// Redirection entries and messages, which Linux writes as it likes: whoever is
/// reached is reached by an interrupt that is not masked.
pub fn route(data: &[u8]) {
    let mut input = Input(data);
    let (low, high) = (input.u32(), input.u32());
    let (address, word) = (input.u64(), input.u32());
    let core = OwnCore {
        apic_id: input.u32() % 256,
        logical: LogicalId::from_xapic(input.u32(), input.u32()),
    };
    let pin = Route::from_redirection(low, high);
    assert!(pin.is_none() || low >> 16 & 1 == 0);
    let message = Route::from_message(address, word);
    assert!(message.is_none() || address >> 20 == 0xfee);
    for (route, vector) in [(pin, low), (message, word)] {
        if let Some(route) = route {
            assert_eq!(route.vector, vector.to_le_bytes()[0]);
            let _ = route.reaches(core);
        }
    }
    // A physical destination is met by one APIC ID, or by all.
    if let Some(route) = pin.filter(|_| low >> 11 & 1 == 0) {
        let reached = [high >> 24, 0xff].contains(&core.apic_id) || high >> 24 == 0xff;
        assert!(reached || !route.reaches(core));
    }
}

/// Accesses to the configuration space of the control function: what identifies
/// it stays, and a BAR decodes nothing that is not its own size.
pub fn pci(data: &[u8]) {
    const SIZES: [u32; 6] = [0x1000, 0, 1 << 20, 0, 2 << 20, 0];
    let mut input = Input(data);
    let identity = pci::Identity {
        vendor: 0x1af4,
        device: 0x10f5,
        subsystem: 0x434c,
        class: 0xff_0000,
        revision: 0,
        multifunction: false,
    };
    let mut function = pci::Function::new(&identity, &SIZES);
    let (id, class) = (function.read(0, 4), function.read(8, 4));
    for _ in 0..32 {
        let (offset, width, value) = (input.u16(), input.u8(), input.u32());
        function.write(offset, width, value);
        let _ = function.read(offset, width);
        assert_eq!((function.read(0, 4), function.read(8, 4)), (id, class));
        for (index, size) in SIZES.into_iter().enumerate() {
            let window = function.window(index);
            assert!(window.is_none_or(|at| size != 0 && at.is_multiple_of(size)));
        }
        assert_eq!(function.window(usize::from(offset).max(6)), None);
    }
}
