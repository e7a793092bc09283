"""The way to a DICOMweb server: addresses, the client, and what to say when it fails."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from monai.config import PathLike

from common.data.dicom import package_of_extra
from common.data.image_files import reason
from common.errors import InputError

logger = logging.getLogger(__name__)

TIMEOUT_S = (5.0, 60.0)  # to connect; between two packets of an answer
UID = r"[0-9.]{1,64}"
_RESOURCE = re.compile(rf"(?P<service>.*)/studies/(?P<study>{UID})(/series/(?P<series>{UID}))?/?")


def is_address(input_path: PathLike) -> bool:
    """Whether a path is meant as the address of something on a server."""
    return str(input_path).lower().startswith(("http://", "https://", "dicomweb://"))


def parts_of_address(url: str) -> tuple[str, str, str | None]:
    """Take the address of a study or series apart.

    Args:
        url: ends in ``/studies/<uid>`` or ``/studies/<uid>/series/<uid>``; ``dicomweb://`` stands for https,
            and for http where the server is on this machine.

    Returns:
        Address of the service with http or https, UID of the study, and UID of the series or None.

    Raises:
        InputError: an address of another form, or with a password in it, which is not repeated.
    """
    address = urlsplit(url)
    if address.username or address.password:
        raise InputError(
            f"DICOMweb server {address.hostname}: expected an address without user and password, which would "
            "end up in logs; put them into ~/.netrc"
        )
    match = _RESOURCE.fullmatch(address.path)
    if not address.hostname or not match or address.query or address.fragment:
        raise InputError(
            f"{url}: expected an address that ends in /studies/<uid> or /studies/<uid>/series/<uid>"
        )
    scheme = address.scheme.lower()
    if scheme == "dicomweb":
        scheme = "http" if _is_this_machine(address.hostname) else "https"
    return f"{scheme}://{address.netloc}{match['service']}", match["study"], match["series"]


def client_of(service: str) -> Any:
    """Client for a DICOMweb server; user and password come from ``~/.netrc``, never from an address.

    Args:
        service: address of the service, such as ``http://127.0.0.1:8042/dicom-web``.

    Returns:
        :class:`dicomweb_client.DICOMwebClient` that does not repeat requests that failed.

    Raises:
        InputError: dicomweb-client is not installed.
    """
    package = package_of_extra("dicomweb_client")
    requests = package_of_extra("requests")
    address, session = urlsplit(service), requests.Session()
    if _is_this_machine(address.hostname):
        session.trust_env = False  # no proxy between this machine and itself; also turns off ~/.netrc
        session.auth = requests.utils.get_netrc_auth(service)
    elif address.scheme == "http":
        logger.warning("%s: patient data travel unencrypted; use https", service)
    client = package.DICOMwebClient(service, session=session, timeout=TIMEOUT_S)
    client.set_http_retry_params(retry=False)  # half a minute before "connection refused" is reported
    return client


@contextmanager
def plain_errors(url: str) -> Iterator[None]:
    """Turn what goes wrong between client and server into one :class:`InputError` that says so.

    Args:
        url: named in the message.

    Raises:
        InputError: instead of the errors of requests, urllib3, json and pydicom.
    """
    requests = package_of_extra("requests")
    advice = {401: "; put user and password into ~/.netrc", 404: "; no such study or service"}
    try:
        yield
    except InputError:
        raise
    except requests.HTTPError as error:
        status = error.response.status_code
        raise InputError(
            f"{url}: the DICOMweb server refused, {status} {error.response.reason}{advice.get(status, '')}"
        ) from error
    except (requests.ConnectionError, requests.Timeout) as error:
        inner = getattr(error.args[0], "reason", error) if error.args else error
        raise InputError(f"{url}: no DICOMweb server answers ({str(inner).rsplit(': ', 1)[-1]})") from error
    except OSError as error:
        raise InputError(f"{url}: cannot be received ({reason(error)})") from error
    except Exception as error:  # an answer that is no DICOM or JSON fails in many ways
        raise InputError(f"{url}: expected the answer of a DICOMweb server, found {reason(error)}") from error


def _is_this_machine(host: str | None) -> bool:
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False
