//! The Multiboot2 header and the way from 32-bit protected mode to
//! [`crate::boot::first`] (Multiboot2 specification, section 3.3 "I386 machine
//! state"; Intel SDM vol. 3, "Initializing IA-32e Mode").
//!
//! The tables built here map the first 4 GiB with 2 MiB pages, all rights.
//! They serve until `arch::paging` has made the real ones, and again for the
//! first instructions of every other core.

use core::arch::global_asm;

/// Bytes of the boot core's stack.
pub(crate) const BOOT_STACK: usize = 512 * 1024;

global_asm!(
    r#"
.section .multiboot, "a"
.balign 8
cloister_multiboot:
    .long 0xe85250d6
    .long 0
    .long cloister_multiboot_end - cloister_multiboot
    .long -(0xe85250d6 + (cloister_multiboot_end - cloister_multiboot))
    /* Page-align the modules. */
    .short 6, 0
    .long 8
    /* End. */
    .short 0, 0
    .long 8
cloister_multiboot_end:

.section .bss.boot, "aw", @nobits
.balign 4096
.global cloister_boot_pml4
cloister_boot_pml4:
    .skip 4096
cloister_boot_pdpt:
    .skip 4096
cloister_boot_pds:
    .skip 4096 * 4
/* Unmapped later: a guard page below the boot core's stack. */
.global cloister_boot_stack_guard
cloister_boot_stack_guard:
    .skip 4096
.global cloister_boot_stack
cloister_boot_stack:
    .skip {stack}
cloister_boot_stack_top:

.section .rodata.boot, "a"
.balign 8
.global cloister_boot_gdt_pointer
cloister_boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    /* 32-bit code, for the other cores' way through protected mode. */
    .quad 0x00cf9b000000ffff
cloister_boot_gdt_pointer:
    .short 31
    .long cloister_boot_gdt
    .long 0
no_multiboot:
    .asciz "Cloister was not started by a Multiboot2 loader.\r\n"
no_long_mode:
    .asciz "Cloister needs a processor with long mode, NX and 2 MiB pages.\r\n"

.section .text.boot, "ax"
.code32
.global cloister_start
cloister_start:
    cli
    cld
    mov esp, offset cloister_boot_stack_top
    mov ebp, ebx
    mov esi, offset no_multiboot
    cmp eax, 0x36d76289
    jne complain

    /* CPUID 8000_0001 EDX: bit 29 long mode, bit 20 NX. */
    mov esi, offset no_long_mode
    mov eax, 0x80000000
    cpuid
    cmp eax, 0x80000001
    jb complain
    mov eax, 0x80000001
    cpuid
    and edx, (1 << 29) | (1 << 20)
    cmp edx, (1 << 29) | (1 << 20)
    jne complain

    mov eax, offset cloister_boot_pdpt + 3
    mov [cloister_boot_pml4], eax
    mov eax, offset cloister_boot_pds + 3
    mov edi, offset cloister_boot_pdpt
    mov ecx, 4
2:  mov [edi], eax
    add eax, 4096
    add edi, 8
    loop 2b
    mov eax, 0x83
    mov edi, offset cloister_boot_pds
    mov ecx, 2048
3:  mov [edi], eax
    add eax, 0x200000
    add edi, 8
    loop 3b

    call enter_long_mode
    push 0x08
    mov eax, offset long_mode
    push eax
    retf

/* Paging on with the boot tables, 64-bit code next. Also for other cores. */
.global enter_long_mode
enter_long_mode:
    /* CR4.PAE and nothing else. */
    mov eax, 0x20
    mov cr4, eax
    mov eax, offset cloister_boot_pml4
    mov cr3, eax
    /* EFER.LME and EFER.NXE. */
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x900
    wrmsr
    /* CR0: PG, WP, NE, ET, MP, PE; caches on. */
    mov eax, 0x80010033
    mov cr0, eax
    lgdt [cloister_boot_gdt_pointer]
    ret

/* Says what is wrong on COM1 and COM2, at whatever speed they have. */
complain:
    lodsb
    test al, al
    jz 5f
    mov ah, al
    mov edx, 0x3fd
    call send
    mov edx, 0x2fd
    call send
    jmp complain
5:  hlt
    jmp 5b
send:
    mov ecx, 100000
6:  in al, dx
    test al, 0x20
    loopz 6b
    mov al, ah
    sub edx, 5
    out dx, al
    ret

.code64
long_mode:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov rsp, offset cloister_boot_stack_top
    mov edi, ebp
    xor ebp, ebp
    call {start}
    ud2
.text
"#,
    stack = const BOOT_STACK,
    start = sym crate::boot::first,
);
