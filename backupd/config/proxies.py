"""Proxies as the environment names them: HTTPS_PROXY, ALL_PROXY and NO_PROXY, in either case. Their URLs may hold a password."""


def proxy_for(host: str) -> str | None:
    """The URL of the proxy through which `host` is reached by TLS; None for none."""
    from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

    proxies: dict[str, str] = getproxies_environment()
    if proxy_bypass_environment(host, proxies):
        return None
    return proxies.get("https") or proxies.get("all")
