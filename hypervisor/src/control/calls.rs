//! Stores to the control page: each is a whole call, served before the store
//! is done. One call at a time, on the core that made it.

use core::fmt::{Arguments, Write as _};
use core::sync::atomic::Ordering;

use cloister_abi::Reason;
use cloister_abi::control::{
    Call, CallError, DOORBELL, MAX_IMAGE, Operation, TRANSFER_IMAGE, TRANSFER_MAGIC,
    TransferHeader, WATCH_SHIFT,
};
use cloister_core::decode;
use cloister_core::elf::Program;
use crc::{CRC_32_ISO_HDLC, Crc, Table};

use crate::arch::cpu;
use crate::arch::memory::PAGE;
use crate::control::{Control, State};
use crate::cores::{self, Request};
use crate::exit::{Next, apic};
use crate::partition::{Image, Partition, operator};
use crate::report;
use crate::run::Core;
use crate::virt::{Event, Vcpu, Vendor};

/// Why a call failed, for people.
type Message = heapless::String<{ cloister_abi::control::MAX_MESSAGE }>;
type Outcome = Result<(), (CallError, Message)>;

const CHECKSUM: Crc<u32, Table<1>> = Crc::<u32, Table<1>>::new(&CRC_32_ISO_HDLC);

fn fail(error: CallError, why: Arguments<'_>) -> (CallError, Message) {
    let mut message = Message::new();
    let _ = message.write_fmt(why);
    (error, message)
}

/// Linux writes to `gpa`, which it may not. `None`: that is none of the
/// function's pages that take stores.
pub(crate) fn memory_write<V: Vendor>(core: &mut Core<V>, gpa: u64) -> Option<Next> {
    let control = core.system.control?;
    let page = gpa & !(PAGE - 1);
    let config = control.with_config(page);
    let is_control = control.own().and_then(|own| own.placed(0)) == Some(page);
    if config.is_none() && !is_control {
        return None;
    }
    let code = apic::fetch(core);
    let gpr = core.vcpu.registers().gpr;
    let store = code.and_then(|code| decode::store(code.bytes(), code.mode, &gpr).ok());
    let Some(store) = store else {
        control.page.refused.fetch_add(1, Ordering::Relaxed);
        report::refused(
            core,
            Reason::NestedPageFault,
            format_args!("store to the control function at {gpa:#x}: no plain MOV"),
        );
        core.vcpu.inject(Event::GP);
        return Some(Next::Resume);
    };
    let offset = u16::try_from(gpa - page).unwrap_or(u16::MAX);
    #[expect(clippy::cast_possible_truncation, reason = "the width says how much")]
    if let Some(function) = config {
        function.write_config(core, offset, store.width, store.value as u32);
    } else if offset == DOORBELL && store.width == 8 {
        ring(control, core, store.value);
    } else {
        control.page.refused.fetch_add(1, Ordering::Relaxed);
        report::refused(
            core,
            Reason::NestedPageFault,
            format_args!(
                "store of {} bytes to the control page at {offset:#x}; a call is 8 bytes at {DOORBELL:#x}",
                store.width
            ),
        );
    }
    core.vcpu.skip_by(store.length);
    Some(Next::Resume)
}

/// Serves the call `value`, and says on the page what came of it.
fn ring<V: Vendor>(control: &Control, core: &Core<V>, value: u64) {
    let mut state = control.state.lock();
    let outcome = match Call::decode(value) {
        Some(call) if call.operation == Operation::Watch => watch(core, call),
        Some(call) => serve(control, &mut state, core, call),
        None => {
            let operation = value & 0xff;
            Err(fail(
                CallError::UnknownCall,
                format_args!("no operation has the number {operation}"),
            ))
        }
    };
    let page = control.page;
    let (result, message) = match outcome {
        Ok(()) => (0, Message::new()),
        Err((error, message)) => {
            if matches!(
                error,
                CallError::UnknownCall | CallError::NoPartition | CallError::InvalidArgument
            ) {
                page.refused.fetch_add(1, Ordering::Relaxed);
            }
            (error as i64, message)
        }
    };
    for (to, from) in page.message.iter().zip(message.as_bytes()) {
        to.store(*from, Ordering::Relaxed);
    }
    page.message_length
        .store(message.len() as u64, Ordering::Relaxed);
    page.result.store(result, Ordering::Relaxed);
    page.last.store(value, Ordering::Relaxed);
    page.served.fetch_add(1, Ordering::Release);
}

fn serve<V: Vendor>(control: &Control, state: &mut State, core: &Core<V>, call: Call) -> Outcome {
    let Some(partition) = core.system.partitions.get(usize::from(call.partition)) else {
        return Err(fail(
            CallError::NoPartition,
            format_args!(
                "no partition has the index {}; there are {}",
                call.partition,
                core.system.partitions.len()
            ),
        ));
    };
    let debug = call.operation == Operation::Debug;
    let load = call.operation == Operation::Load;
    if !load && call.argument > u32::from(debug) {
        return Err(fail(
            CallError::InvalidArgument,
            format_args!("the argument {:#x} means nothing here", call.argument),
        ));
    }
    let done = match call.operation {
        Operation::Start => operator::start(partition),
        Operation::Stop => operator::stop(partition),
        Operation::Restart => {
            operator::restart(partition);
            Ok(())
        }
        Operation::Debug => {
            operator::set_debug(partition, call.argument == 1);
            Ok(())
        }
        // Not about a partition: `watch`.
        Operation::Watch => Ok(()),
        Operation::Load => return self::load(control, state, core, partition, call.argument),
    };
    done.map_err(|why| {
        fail(
            CallError::WrongState,
            format_args!("partition \"{}\" {why}", partition.name()),
        )
    })
}

/// Watches one of Linux's cores for a while, or no longer.
fn watch<V: Vendor>(core: &Core<V>, call: Call) -> Outcome {
    let number = usize::from(call.partition);
    let watch = cores::core(number)
        .watch()
        .filter(|_| core.guest.cpus.contains(number));
    let Some(watch) = watch else {
        return Err(fail(
            CallError::NoPartition,
            format_args!("core {number} is none of Linux's"),
        ));
    };
    let for_good = watch.is_due(u64::MAX - 1);
    if !for_good {
        let cycles = u64::from(call.argument) << WATCH_SHIFT;
        watch.set_until(cpu::tsc().saturating_add(cycles));
    }
    if watch.is_on() != (call.argument != 0) {
        cores::core(number).ask(Request::Flags);
    }
    Ok(())
}

/// Replaces the partition's image by the one in the transfer area, which Linux
/// may change at any moment: so it is checked only when it has been copied.
fn load<V: Vendor>(
    control: &Control,
    state: &mut State,
    core: &Core<V>,
    partition: &Partition<V>,
    length: u32,
) -> Outcome {
    if !operator::is_settled(partition) {
        return Err(fail(
            CallError::WrongState,
            format_args!(
                "partition \"{}\" is {}; stop it first",
                partition.name(),
                partition.life.state().name()
            ),
        ));
    }
    let bad = |why: Arguments<'_>| fail(CallError::BadImage, why);
    let header = header(control);
    if header.magic != TRANSFER_MAGIC || header.length != u64::from(length) {
        return Err(bad(format_args!(
            "the transfer area holds no image of {length} bytes"
        )));
    }
    if length == 0 || length > MAX_IMAGE {
        return Err(bad(format_args!(
            "an image has 1 to {MAX_IMAGE} bytes, not {length}"
        )));
    }
    let frame = state.spare.take();
    let frame = frame.or_else(|| core.system.pool.pages(u64::from(MAX_IMAGE) / PAGE, PAGE));
    let Some(mut frame) = frame else {
        return Err(fail(
            CallError::NoMemory,
            format_args!("hypervisor.memory has no {MAX_IMAGE} bytes left for the image"),
        ));
    };
    let checked = frame
        .bytes()
        .get_mut(..length as usize)
        .and_then(|bytes| {
            let all = control.transfer.read(u64::from(TRANSFER_IMAGE), bytes);
            all.then_some(&*bytes)
        })
        .ok_or_else(|| bad(format_args!("the image is not all there")))
        .and_then(|bytes| {
            if u64::from(CHECKSUM.checksum(bytes)) != header.checksum {
                return Err(bad(format_args!(
                    "the image's checksum is wrong: somebody else wrote to the transfer area"
                )));
            }
            Program::parse(bytes, partition.block.len())
                .map(|_| ())
                .map_err(|error| bad(format_args!("the image: {error}")))
        });
    if let Err(error) = checked {
        state.spare = Some(frame);
        return Err(error);
    }
    let image = Image::Replaced {
        frame,
        length: length as usize,
    };
    if let Image::Replaced { frame, .. } = operator::replace_image(partition, image) {
        state.spare = Some(frame);
    }
    Ok(())
}

fn header(control: &Control) -> TransferHeader {
    let field = |offset: u64| {
        let mut bytes = [0; 8];
        control.transfer.read(offset, &mut bytes);
        u64::from_le_bytes(bytes)
    };
    TransferHeader {
        magic: field(0),
        length: field(8),
        checksum: field(16),
    }
}
