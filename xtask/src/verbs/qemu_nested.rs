//! `cargo xtask qemu-nested`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use xtask::kvm::{self, Choice};
use xtask::{Accel, Iommu, paths};

use super::run_options::RunOptions;

/// Build everything, make the GRUB image, boot it in QEMU.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// KVM where it can nest, or TCG with emulated AMD SVM
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    accel: Accel,
    /// Put an IOMMU into the machine
    #[arg(long, value_enum)]
    iommu: Option<Iommu>,
    #[command(flatten)]
    options: RunOptions,
}

impl Arguments {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let accel = self.accel;
        match kvm::choose(accel, &kvm::probe())? {
            Choice::Kvm(vendor) => eprintln!("QEMU with nested KVM ({vendor})"),
            Choice::Tcg(why) => eprintln!("QEMU with TCG: {why}"),
        }
        let iommu = self.iommu;
        self.options.boot(paths::demo(), |run| {
            let run = run.accel(accel);
            match iommu {
                Some(iommu) => run.iommu(iommu),
                None => run,
            }
        })
    }
}
