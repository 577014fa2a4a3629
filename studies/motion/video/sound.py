"""The sound of a video, taken along as it is: packets are copied, not decoded."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.packet import Packet

from .reading import shown_first

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}


@dataclass(frozen=True)
class Sound:
    """What is heard in the video `path` from its second `start` on, counted from its first frame."""

    path: str | Path
    start: float = 0.0

    def beside(self, container: OutputContainer) -> Callable[[float], None]:
        """Give a new file the streams of sound that its format takes, before anything is written to it.

        Returns what copies the sound up to a second of the new file; to be called with rising seconds.
        """
        source = av.open(str(self.path), metadata_errors="replace")
        streams = {
            stream.index: container.add_stream_from_template(stream)
            for stream in source.streams.audio
            if stream.codec.canonical_name in container.supported_codecs
        }
        packets = self._packets(source, streams)
        waiting: list[tuple[float, Packet]] = []

        def copy(seconds: float) -> None:
            while True:
                if not waiting:
                    packet = next(packets, None)
                    if packet is None:
                        return
                    waiting.append(packet)
                if waiting[0][0] >= seconds:
                    return
                container.mux_one(waiting.pop()[1])

        return copy

    def left_out(self, output: str | Path) -> list[str]:
        """The codecs of those streams of sound that `output`, an .mp4, .mov or .mkv, cannot hold."""
        with av.open(str(self.path), metadata_errors="replace") as source:
            names = [stream.codec.canonical_name for stream in source.streams.audio]
        with av.open(io.BytesIO(), "w", format=FORMATS[Path(output).suffix.lower()]) as container:
            return [name for name in names if name not in container.supported_codecs]

    def _packets(self, source: InputContainer, streams: dict[int, AudioStream]) -> Iterator[tuple[float, Packet]]:
        """The packets with their seconds in the new file, as its own. A file that is cut off ends where it is cut."""
        with source:
            video = shown_first(source)
            first = float((video.start_time or 0) * (video.time_base or 0)) + self.start
            taken = [source.streams[index] for index in streams]
            try:
                for packet in source.demux(taken) if taken else ():
                    if packet.dts is None or packet.pts is None:  # the flush at the end
                        continue
                    late = round(first / packet.time_base)
                    packet.pts, packet.dts = packet.pts - late, packet.dts - late
                    seconds = float(packet.pts * packet.time_base)
                    if seconds >= 0 or not self.start:  # an encoder's first packet lies before 0
                        packet.stream = streams[packet.stream_index]
                        yield seconds, packet
            except FFmpegError:
                return
