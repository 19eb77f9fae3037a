"""Fetches an archive from the first of several hosts that gives it whole, and unpacks it safely."""

import errno
import hashlib
import http.client
import os
import shutil
import socket
import ssl
import tarfile
import time
import zlib
from pathlib import Path
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

from common.settings import UserError

TRIES = 4  # of each host
BACK_OFF = 1.0  # seconds before the second try; doubled for each further one
LONGEST_WAIT = 60.0  # seconds; the most that a server's Retry-After is heeded
GZIP = b"\x1f\x8b"  # the first bytes of an archive
TIMEOUT = 30.0  # seconds without a byte before a connection counts as dead
CHUNK = 1 << 16  # bytes; what is lost, at the most, when a connection breaks


class Refused(Exception):
    """This host will not give the file, however often it is asked."""


class BrokenOff(requests.ConnectionError):
    """The connection ended before the file did."""


def download(urls: list[str], path: Path, size: int, md5: str) -> None:
    """Fetches `path` (`size` bytes of checksum `md5`) from the first of `urls` that serves it.

    What has come stays in a .part file, from which a later try, host or run goes on. `path` itself appears
    only when size and checksum are right. Raises UserError that tells what every host answered.
    """
    part = path.with_name(path.name + ".part")
    answers = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for url in urls:
            attempt, most = 0, 0  # bytes that have ever been there of this file
            while attempt < TRIES:
                before = size_of(part)
                try:
                    stream(url, part, size)
                    whole = is_whole(part, size, md5)
                    if before and not whole:  # what was there before may have been the fault
                        most = 0
                        stream(url, part, size)
                        whole = is_whole(part, size, md5)
                    if not whole:
                        raise Refused(f"what came has not the MD5 {md5}")
                    os.replace(part, path)
                    return
                except Refused as error:
                    answers.append(f"{urlsplit(url).netloc}: {error}")
                    break
                except requests.TooManyRedirects:
                    answers.append(f"{urlsplit(url).netloc}: redirects without end")
                    break
                except requests.RequestException as error:
                    most = most if part.exists() else 0  # the host has fewer bytes: it was no part of this file
                    attempt = 1 if size_of(part) > most else attempt + 1  # in a row without a byte of progress
                    most = max(most, size_of(part))
                    if attempt == TRIES:
                        answers.append(f"{urlsplit(url).netloc}: {reason(error)}, {TRIES} times")
                    else:
                        time.sleep(wait_for(error, attempt - 1))
    except OSError as error:  # requests' own errors, which are OSErrors too, never come here
        raise UserError(f"{part} could not be written: {error}") from error
    raise UserError(
        f"{path.name} could not be fetched from {'; from '.join(answers)}. Fetch it by hand, put it at {path} and "
        "start again; DATASET=toy tries the code on drawn pets without any download"
    )


def stream(url: str, part: Path, size: int) -> None:
    """Appends to `part` what is missing of it. Raises requests.RequestException when that is worth another try."""
    have = size_of(part)
    if have == size:
        return
    if have > size:
        part.unlink()
        have = 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    headers["Accept-Encoding"] = "identity"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if 400 <= response.status_code < 500 and response.status_code not in (408, 416, 429):
            raise Refused(f"HTTP {response.status_code}")
        if response.status_code == 416:  # it has fewer bytes than we do
            part.unlink(missing_ok=True)
        response.raise_for_status()
        if have and not (
            response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        ):
            have = 0  # a server that knows no Range begins anew, and so do we
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and len(length) < 20 and int(length) != size - have:
            raise Refused(f"offers {int(length) + have:,} bytes instead of {size:,}")
        lie = ""
        with (
            open(part, "ab" if have else "wb") as file,
            tqdm(total=size, initial=have, unit="B", unit_scale=True, desc=part.stem, leave=False) as bar,
        ):
            for chunk in response.iter_content(CHUNK):
                have += len(chunk)
                if have > size or (file.tell() == 0 and not chunk.startswith(GZIP)):
                    lie = "no gzip archive" if have <= size else f"more than {size:,} bytes"
                    break
                file.write(chunk)
                bar.update(len(chunk))
        if lie:
            part.unlink()  # what a lying host sent is not to be gone on with at the next one
            raise Refused(f"sends {lie}")
    if have < size:
        raise BrokenOff(f"broke off after {have:,} of {size:,} bytes")


def size_of(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def is_whole(part: Path, size: int, md5: str) -> bool:
    """Whether it is the file that was asked for; if it isn't, it is removed."""
    if size_of(part) == size and md5_of(part) == md5:
        return True
    part.unlink(missing_ok=True)
    return False


def md5_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def reason(error: requests.RequestException) -> str:
    """Why a request failed, in words; requests' own message is a connection pool's account of itself."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP {response.status_code}"
    if isinstance(error, BrokenOff):
        return str(error)
    causes = causes_of(error)
    for kind, words in (
        (socket.gaierror, "its name is not known (no network, or a wrong name server)"),
        (ConnectionRefusedError, "connection refused"),
        (ssl.SSLCertVerificationError, "its certificate is not trusted here"),
        (ssl.SSLError, "no secure connection"),
        ((TimeoutError, requests.Timeout), f"no answer for {TIMEOUT:g} s"),
        (ConnectionResetError, "connection reset"),
        (http.client.IncompleteRead, "broke off"),
    ):
        if any(isinstance(cause, kind) for cause in causes):
            return words
    return f"connection failed ({type(causes[-1]).__name__})"


def causes_of(error: BaseException) -> list[BaseException]:
    """The error, and what it was raised from or wraps, the outermost first."""
    found = [error]
    for cause in found:
        inner = (*cause.args, getattr(cause, "reason", None), cause.__cause__, cause.__context__)
        found += [e for e in inner if isinstance(e, BaseException) and e not in found]
    return found


def wait_for(error: requests.RequestException, attempt: int) -> float:
    """Seconds before the next try: what the server asks for, within bounds, or our own back-off."""
    response = getattr(error, "response", None)
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    return min(float(asked), LONGEST_WAIT) if asked.isdecimal() else BACK_OFF * 2**attempt


def unpack(archive: Path, name: str, most_bytes: int) -> None:
    """Unpacks the folder `name` of a tar file beside it; the folder appears complete or not at all.

    Raises UserError for an archive that is damaged, reaches outside its folder or unpacks to over most_bytes.
    """
    part = archive.parent / f"{name}.part"
    unpacked = 0

    def bounded(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        nonlocal unpacked
        unpacked += member.size
        if unpacked > most_bytes:
            raise tarfile.TarError(f"it unpacks to over {most_bytes:,} bytes")
        return tarfile.data_filter(member, path)

    shutil.rmtree(part, ignore_errors=True)
    try:
        with tarfile.open(archive, "r:gz") as tar:
            tar.extractall(part, filter=bounded)
        os.replace(part / name, archive.parent / name)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        advice = "make room there" if getattr(error, "errno", None) == errno.ENOSPC else "delete it to fetch it again"
        raise UserError(f"{archive} could not be unpacked: {error}; {advice}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
