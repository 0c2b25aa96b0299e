"""Programs that change their own code, by what is special about them; each ends with HLT."""

from __future__ import annotations

PAGES = """
    mov dword ptr [0x10000], 0x11003    # page directory at 0x10000: one table
    xor ecx, ecx
1:  mov eax, ecx
    shl eax, 12
    or eax, 3
    mov [0x11000 + ecx*4], eax
    inc ecx
    cmp ecx, 64
    jb 1b
    mov dword ptr [0x11000 + 4*0x30], 0x1003   # 0x30000 is an alias of 0x1000
    mov dword ptr [0x11000 + 4*0x31], 0x2003   # 0x31000 one of 0x2000
    mov eax, 0x10000
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
"""

PROGRAMS = {
    "next instruction": """
        mov byte ptr [target + 1], 7
    target:
        mov al, 1
        hlt
    """,
    "what ended a block, a jump over the end of its page, becomes part of it": """
        mov ecx, 3
    1:  call 5f
        loop 1b
        mov byte ptr [4f], 0xC3             # RET
        mov ecx, 400
    1:  call 5f
        inc edx
        loop 1b
        hlt
        .org 0xFF9
    5:  inc eax
        add ebx, eax
    4:  .byte 0xE9                          # JMP 6f
        .long 6f - . - 4
    6:  ret
    """,
    "a NOP further on in the block": """
        mov eax, 1
        mov byte ptr [target], 0x40         # NOP becomes INC EAX
        mov ecx, 2
    target:
        nop
        mov edx, 3
        hlt
    """,
    "the NOP behind the store": """
        mov byte ptr [target], 0x40
    target:
        nop
        mov edx, 3
        mov ebx, 3
        hlt
    """,
    "a NOP by read-modify-write, then a jump": """
        xor byte ptr [target], 0x90 ^ 0x41
        mov edi, edi
    target:
        nop
        jmp 1f
    1:  hlt
    """,
    "a Jcc by the instruction it would be fused with": """
        mov eax, 0
        dec byte ptr [target + 1]           # the displacement becomes 0
    target:
        jnz 1f
        .byte 0x40                          # not reached with displacement 1, reached with 0
    1:  hlt
    """,
    "the condition of a Jcc by SUB to memory": """
        mov ecx, 5
        sub byte ptr [target], 1            # JNZ becomes JZ
    target:
        jnz 1f
        mov eax, 1
    1:  hlt
    """,
    "the condition of a Jcc by AND to memory, in a loop": """
        mov ecx, 5
    2:  and byte ptr [target], 0xFE
    target:
        jnz 1f
        mov eax, 1
    1:  xor byte ptr [target], 1
        loop 2b
        hlt
    """,
    "an earlier instruction in a loop": """
        mov ecx, 20
        xor edx, edx
    again:
        add edx, 1                          # 83 C2 ib
        inc byte ptr [again + 2]
        dec ecx
        jnz again
        hlt
    """,
    "an earlier block that this one is chained to": """
        mov ecx, 8
    first:
        mov eax, 100                        # B8 id
        jmp second
    second:
        add ebx, eax
        inc dword ptr [first + 1]
        loop first
        hlt
    """,
    "a function behind a call": """
        mov ecx, 9
    1:  call function
        add dword ptr [function + 1], 3
        loop 1b
        hlt
    function:
        mov eax, 1
        add esi, eax
        ret
    """,
    "through an indirect jump": """
        mov ecx, 9
        mov edi, offset function
    1:  call edi
        add dword ptr [function + 1], 3
        loop 1b
        hlt
    function:
        mov eax, 1
        add esi, eax
        ret
    """,
    "across a page border": """
        mov ecx, 3
        jmp over
        .org 0xFFD
    over:
        mov eax, 0x11111111                 # bytes 0xFFD to 0x1001
        add ebx, eax
        mov byte ptr [over + 4], 0x22       # in the second page
        mov byte ptr [over + 1], 0x33       # in the first page
        loop over
        hlt
    """,
    "the part in the second page only": """
        mov ecx, 4
        jmp over
        .org 0xFFD
    over:
        mov eax, 0x11111111
        add ebx, eax
        inc byte ptr [over + 4]
        loop over
        hlt
    """,
    "an instruction over a page border that writes itself": """
        mov ecx, 4
        jmp over
        .org 0xFFA
    over:
        add byte ptr [over + 6], 3          # 80 05 disp32 ib: the immediate lies in the second page
        loop over
        hlt
    """,
    "an instruction that writes its own immediate": """
        mov ecx, 6
    1:  add dword ptr [1b + 6], 0x10        # 83 05 disp32 ib
        loop 1b
        hlt
    """,
    "by REP STOSB": """
        mov edi, offset target
        mov al, 0x40
        mov ecx, 6
        rep stosb
    target:
        .fill 6, 1, 0x90
        hlt
    """,
    "by REP STOSD downwards": """
        std
        mov edi, offset target + 8
        mov eax, 0x43434343
        mov ecx, 3
        rep stosd
    target:
        .fill 12, 1, 0x90
        hlt
    """,
    "by REP MOVSB": """
        mov esi, offset source
        mov edi, offset target
        mov ecx, 7
        rep movsb
        jmp target
    source:
        inc eax
        mov ebx, 5
        hlt
    target:
        .fill 16, 1, 0xF4
    """,
    "REP STOSB over itself": """
        mov edi, offset 1f
        mov ecx, 8
        mov al, 0x47                        # INC EDI
        jmp 1f
    1:  rep stosb
        .fill 8, 1, 0x90
        hlt
    """,
    "REP MOVSB over itself": """
        mov esi, offset 2f
        mov edi, offset 1f
        mov ecx, 4
    1:  rep movsb
        nop
        nop
        hlt
    2:  inc edx
        inc edx
        inc ebx
        inc ebx
    """,
    "REP STOSD over itself after many elements": """
        mov edi, offset 1f - 64
        mov ecx, 20
        mov eax, 0x41414141
        jmp 1f
        .fill 64, 1, 0x90
    1:  rep stosd
        .fill 20, 1, 0x90
        hlt
    """,
    "REP STOSB over itself on a page whose code is forgotten": """
        mov edx, 5
    1:  mov dword ptr [0x2000], 0xC390AAF3  # rep stosb, nop, ret
        mov dword ptr [0x2004], 0           # no block is left on the page
        mov edi, 0x2000
        mov ecx, 3
        mov al, 0x40
        call 0x2000
        dec edx
        jnz 1b
        hlt
    """,
    "a block that becomes shorter, and longer": """
        mov ecx, 24
    1:  jmp target
        .org 0x20
    target:
        inc eax
        inc eax
        inc eax
        inc eax
        dec ecx
        jz 2f
        test cl, 7
        jnz 1b
        xor dword ptr [target], 0x000100CD  # lea eax, [eax + 1]; inc eax
        jmp 1b
    2:  hlt
    """,
    "a PUSH onto the code behind it": """
        mov esp, offset target + 4
        push 0x40404040
    target:
        .fill 4, 1, 0x90
        hlt
    """,
    "a CALL whose return address becomes code": """
        mov esp, offset target + 4
        call target
        .org 0x47 * 0x10
    target:
        .fill 4, 1, 0x90                    # becomes the return address
        hlt
    """,
    "code and data on one page": """
        mov ecx, 50
    1:  inc dword ptr [counter]
        mov eax, [counter]
        add ebx, eax
        loop 1b
        hlt
        .align 4
    counter: .long 0
    """,
    "data beside code in one 64-byte piece, stores of all sizes": """
        mov ecx, 9
    1:  inc byte ptr [counter]
        add word ptr [counter + 1], 7
        add dword ptr [counter + 3], ebx
        mov [counter + 7], ecx
        add ebx, [counter + 5]
        loop 1b
        jmp 2f
    counter: .fill 12, 1, 0
    2:  hlt
    """,
    "data beside code that becomes code": """
        mov ebx, 0x00C34040                 # inc eax, twice; with bit 3 dec eax
        mov ecx, 6
    1:  mov [target], ebx
        mov [target], ebx
        add dword ptr [target + 4], ecx
        test ecx, 1
        jnz 3f
        call target
    3:  xor ebx, 8
        loop 1b
        jmp 2f
    target: .fill 8, 1, 0xC3
    2:  hlt
    """,
    "a page that stops to be code": """
        mov ecx, 3
    1:  call 0x2000
        mov edi, 0x2000
        push ecx
        mov ecx, 1024
        mov eax, 0x90909090
        rep stosd                           # all of it is overwritten
        mov dword ptr [0x2000], 0xC3424242
        pop ecx
        loop 1b
        mov ecx, 100
        mov edi, 0x2800
        rep stosd
        hlt
        .org 0x1000
        inc edx
        ret
    """,
    "a store over two pages of code": """
        mov ecx, 4
    1:  call 0x1FFC
        add dword ptr [0x1FFE], 0x00010001
        loop 1b
        hlt
        .org 0xFFC
        add eax, 0x00010001                 # 05 id
        ret
    """,
    "through another linear address": PAGES
    + """
        mov ecx, 5
        mov edi, offset target + 0x2F000
    1:
    target:
        add eax, 1                          # 83 C0 ib
        inc byte ptr [edi + 2]
        loop 1b
        hlt
    """,
    "code that runs at two linear addresses": PAGES
    + """
        mov ecx, 5
    1:  call function
        call function + 0x2F000
        inc dword ptr [function + 1]
        inc dword ptr [function + 0x2F001]
        loop 1b
        hlt
    function:
        mov eax, 1
        add ebx, eax
        ret
    """,
    "over a page border through another linear address": PAGES
    + """
        mov ecx, 5
        jmp over
        .org 0xFFD
    over:
        add eax, 0x01010101                 # 05 id: bytes 0x1FFD to 0x2001
        inc byte ptr [0x31000]
        inc byte ptr [0x30FFF]
        loop over
        hlt
    """,
}
