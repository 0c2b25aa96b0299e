"""Questions and settings: what is announced is what the target has."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gdbstub import Session
from gdbstub.target import MemoryRegion
from tests.gdbstub.client import Client
from tests.gdbstub.fake_target import RAM, FakeTarget, MandatoryTarget

ALWAYS = {
    "PacketSize=20000",
    "QStartNoAckMode+",
    "multiprocess+",
    "vContSupported+",
    "binary-upload+",
    "qXfer:features:read+",
    "qXfer:threads:read+",
}
OPTIONAL = {
    "swbreak+",
    "hwbreak+",
    "qXfer:memory-map:read+",
    "qXfer:exec-file:read+",
    "ReverseStep+",
    "ReverseContinue+",
}


def xfer(client: Client, what: str, annex: str = "", piece: int = 0x10000) -> str:
    """A whole document, read in pieces."""
    text = ""
    while True:
        reply = client.ask(f"qXfer:{what}:read:{annex}:{len(text):x},{piece:x}")
        assert reply[:1] in ("m", "l"), reply
        text += reply[1:]
        if reply[0] == "l":
            return text


def test_supported(make: Callable[..., Session]) -> None:
    full, bare = Client(make(FakeTarget())), Client(make(MandatoryTarget()))
    assert set(full.ask("qSupported:swbreak+").split(";")) == ALWAYS | OPTIONAL
    assert set(bare.ask("qSupported").split(";")) == ALWAYS
    assert full.ask("vCont?") == "vCont;c;C;s;S;t;r"
    assert bare.ask("vCont?") == "vCont;c;C;s;S;t"


def test_asking_again_without_a_list_forgets_nothing(client: Client) -> None:
    """As `maint packet qSupported` does, in the middle of a session."""
    before = client.ask("?")
    client.ask("qSupported")
    assert "thread:p1.1;" in before and client.ask("?") == before


@pytest.mark.parametrize(
    "packet",
    [
        *(
            "vMustReplyEmpty",
            "qUnknown",
            "Qx",
            "vFile:open:00",
            "Y",
            "jThreadsInfo",
            "i",
            "",
            "\x80",
            "qTStatus",
            "b",
            "vX",
        ),
        *("!!", "!x", "??", "?1", "kx", "k;1", "Dx", "D1", "bcx", "bs1", "vKill", "vKillx", "vKill:1", "vRun", "vRunX"),
        *(
            "vAttach",
            "vAttach:1",
            "vCtrlCx",
            "vCtrlC;",
            "QStartNoAckMode+",
            "QStartNoAckModeX",
            "QThreadSuffixSupported:1",
        ),
        *("qC1", "qC,", "qCX", "qfThreadInfo1", "qfThreadInfo,", "qsThreadInfo;", "qAttached1", "qAttachedX", "qRcmd"),
        *("qRcmd:68", "qRcmd;68", "qSupportedX", "qSupported;a+", "qSymbol", "qSymbol,", "qThreadExtraInfo;1", "qCRC"),
        *(
            "qCRC;0,4",
            "qSearch",
            "qSearch;memory:0;4;a",
            "qXfer",
            "qXfer,threads:read::0,9",
            "qqemu.sstep1",
            "Qqemu.sstep",
        ),
        *(
            "qqemu.sstepbitsx",
            "Qqemu.sstep:1",
            "qqemu.PhyMemMode1",
            "Qqemu.PhyMemMode",
            "Qqemu.PhyMemMode=1",
            "vmustreplyempty",
        ),
    ],
)
def test_unknown_packets_get_the_empty_reply(client: Client, packet: str) -> None:
    assert client.ask(packet) == ""


@pytest.mark.parametrize(
    "packet",
    [
        *("vKill;", "vKill;2", "D;2", "D;x", "vAttach;", "qAttached:2", "qRcmd,6", "qSymbol::aa", "qSymbol:6d61696e"),
        *(
            "qThreadExtraInfo,",
            "qThreadExtraInfo,1,",
            "qCRC:0",
            "qCRC:0,4,",
            "Qqemu.sstep=",
            "Qqemu.PhyMemMode:2",
            "T",
            "T1;",
        ),
        *(
            "Hg1;",
            "m0,1,",
            "m0",
            "m0,1;",
            "x0",
            "M0,1",
            "M0,1:0",
            "M0,1:zz",
            "X0,2:a",
            "Z0,1000",
            "Z0,1000,1;",
            "Z0,1000,1,1",
        ),
        *(
            "Z0,1000,1;X1,22",
            "z0,1000,1;",
            "vCont",
            "vCont;",
            "vCont;q",
            "vCont;c:",
            "vCont?x",
            "c1;",
            "s1;2",
            "C",
            "Cxx;1",
            "S05;",
        ),
    ],
)
def test_what_is_wrong_in_a_known_packet_is_refused(client: Client, target: FakeTarget, packet: str) -> None:
    assert client.ask(packet).startswith("E")
    assert target.n_resumes == 0 and client.ask("?").startswith("T")


def test_a_bare_target_knows_no_optional_packet(make: Callable[..., Session]) -> None:
    client = Client(make(MandatoryTarget()))
    for packet in (
        *(
            "qRcmd,68656c70",
            "qqemu.sstep",
            "qqemu.sstepbits",
            "Qqemu.sstep=1",
            "qqemu.PhyMemMode",
            "Qqemu.PhyMemMode:1",
        ),
        *("vRun;", "bs", "bc", "qXfer:memory-map:read::0,100", "qXfer:exec-file:read::0,100"),
    ):
        assert client.ask(packet) == "", packet


def test_threads(client: Client, target: FakeTarget) -> None:
    target.cpu[2].halted = True
    assert client.ask("qfThreadInfo") == "mp1.1,p1.2"
    assert client.ask("qsThreadInfo") == "l"
    assert client.ask("qC") == "QCp1.1"
    assert client.ask("Tp1.2") == "OK"
    assert client.ask("Tp1.3") == "E.no thread 3"
    assert client.ask("T2") == "OK"
    assert bytes.fromhex(client.ask("qThreadExtraInfo,p1.2")) == b"CPU1 long64 halted"
    text = xfer(client, "threads")
    assert '<thread id="p1.2" core="1" name="CPU1 long64 halted"></thread>' in text


def test_one_thread_without_names(make: Callable[..., Session]) -> None:
    client = Client(make(MandatoryTarget()))
    assert client.ask("qfThreadInfo") == "m1"
    assert client.ask("qC") == "QC1"
    assert bytes.fromhex(client.ask("qThreadExtraInfo,1")) == b"thread 1"
    assert '<thread id="1"></thread>' in xfer(client, "threads")


def test_choosing_threads(client: Client) -> None:
    assert client.ask("Hgp1.2") == "OK"
    assert client.ask("qC") == "QCp1.2"
    for packet in ("Hgp1.0", "Hg-1", "Hcp1.-1", "Hc-1", "Hc0", "Hgp-1.-1", "Hgp0.0"):
        assert client.ask(packet) == "OK", packet
    assert client.ask("Hg3") == "E.no thread 3"
    assert client.ask("Hgp2.1").startswith("E.no process 2")
    assert client.ask("Hx1").startswith("E.")
    assert client.ask("Hg").startswith("E.")


def test_documents_come_in_pieces_of_one_version(client: Client, target: FakeTarget) -> None:
    whole = xfer(client, "features", "target.xml")
    assert whole == target.layout.target_xml
    assert xfer(client, "features", "target.xml", piece=77) == whole
    first = client.ask("qXfer:threads:read::0,60")
    target.cpu[1].halted = True
    assert "CPU0 long64 running" in first + client.ask("qXfer:threads:read::60,1000")
    assert "CPU0 long64 halted" in xfer(client, "threads")
    assert client.ask("qXfer:features:read:target.xml:ffffff,10") == "l"


def test_regions_for_lldb(client: Client, target: FakeTarget, make: Callable[..., Session]) -> None:
    assert client.ask("qMemoryRegionInfo:10") == f"start:0;size:{RAM:x};permissions:rwx;"
    rom = target.memory_map()[1]
    assert client.ask(f"qMemoryRegionInfo:{RAM + 1:x}") == f"start:{RAM:x};size:{rom.size:x};permissions:rx;"
    target.memory_map = lambda: [MemoryRegion(0x1000, 0x1000)]  # type: ignore[method-assign]  # another map
    assert client.ask("qMemoryRegionInfo:0") == "start:0;size:1000;"
    assert client.ask("qMemoryRegionInfo:ffffffffffffffff") == "start:2000;size:ffffffffffffe000;"
    assert client.ask("qMemoryRegionInfo:x").startswith("E")
    assert Client(make(MandatoryTarget())).ask("qMemoryRegionInfo:0") == ""


def test_memory_map_and_file(client: Client, target: FakeTarget) -> None:
    text = xfer(client, "memory-map")
    assert f'<memory type="ram" start="0x0" length="{RAM:#x}"/>' in text
    assert f'<memory type="rom" start="{RAM:#x}"' in text
    assert xfer(client, "exec-file") == xfer(client, "exec-file", "1") == "/nowhere/kernel.elf"
    assert client.ask("qXfer:exec-file:read:2:0,10").startswith("E")
    target.file = None
    assert client.ask("qXfer:exec-file:read:1:0,10").startswith("E")


def test_xfer_refusals(client: Client) -> None:
    assert client.ask("qXfer:features:read:other.xml:0,10") == "E.no features other.xml"
    assert client.ask("qXfer:features:write:target.xml:0:00") == ""
    assert client.ask("qXfer:auxv:read::0,10") == ""
    assert client.ask("qXfer:features:read:target.xml").startswith("E.")
    assert client.ask("qXfer:features:read:target.xml:0").startswith("E.")
    assert client.ask("qXfer") == ""


def test_monitor(client: Client, target: FakeTarget) -> None:
    replies = client.send("qRcmd," + b"help".hex())
    assert [bytes.fromhex(reply[1:]) for reply in replies[:-1]] == [b"help   this list\n", b"quit   end the machine\n"]
    assert replies[-1] == "OK"
    replies = client.send("qRcmd," + b"nope".hex())
    assert bytes.fromhex(replies[0][1:]) == b"unknown command nope\n"
    assert replies[1:] == ["OK"]
    assert client.ask("qRcmd,zz") == "E16"
    client.ask("qSupported:error-message+")
    assert client.send("qRcmd," + b"nope".hex()) == ["E.unknown command nope"]
    assert target.commands == ["help", "nope", "nope"]


def test_monitor_output_is_bounded(client: Client) -> None:
    replies = client.send("qRcmd," + b"flood".hex())
    text = b"".join(bytes.fromhex(reply[1:]) for reply in replies[:-1])
    assert len(text) < (4 << 20) + 100 and text.endswith(b"(the rest is cut)\n")


def test_a_bug_in_a_monitor_command(target: FakeTarget, make: Callable[..., Session], bugs: list[str]) -> None:
    client = Client(make(target))
    assert client.send("qRcmd," + b"bug".hex()) == ["E01"]
    assert "ZeroDivisionError: oops" in bugs.pop()


def test_physical_memory_mode(client: Client, target: FakeTarget) -> None:
    assert client.ask("qqemu.PhyMemMode") == "0"
    assert client.ask("Qqemu.PhyMemMode:1") == "OK"
    assert target.is_physical
    assert client.ask("qqemu.PhyMemMode") == "1"
    assert client.ask("Qqemu.PhyMemMode:2").startswith("E.")


def test_step_flags(client: Client, target: FakeTarget) -> None:
    assert client.ask("qqemu.sstepbits") == "ENABLE=1,NOIRQ=2,NOTIMER=4"
    assert client.ask("qqemu.sstep") == "0x7"
    assert client.ask("Qqemu.sstep=1") == "OK"
    assert target.flags == 1
    assert client.ask("Qqemu.sstep=0x5") == "OK"
    assert client.ask("Qqemu.sstep=8").startswith("E.step flags 0x8")
    assert client.ask("qqemu.sstep=0x3") == "OK"
    assert target.flags == 3
    assert client.ask("qqemu.sstep=8").startswith("E.step flags 0x8")


def test_small_answers(client: Client) -> None:
    assert client.ask("qAttached") == "1"
    assert client.ask("qAttached:1") == "1"
    assert client.ask("qSymbol::") == "OK"
    assert client.ask("!") == "OK"


def test_errors_are_numbers_where_gdb_13_takes_no_text(client: Client) -> None:
    assert client.ask(f"m{RAM:x},1") == "E0e"
    client.ask("qSupported:error-message+")
    assert client.ask(f"m{RAM:x},1") == f"E.no memory at {RAM:#x}"


def test_an_overlong_packet_is_refused(client: Client) -> None:
    assert client.ask("g" * 0x20001) == "E.a packet of 131073 bytes is longer than PacketSize"
    assert client.ask("qAttached") == "1"
