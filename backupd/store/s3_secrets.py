"""AWS Secrets Manager: one secret by its name, with boto3's own chain of credentials."""

from backupd.errors import UsageError


def secret(name: str) -> bytes:
    """The newest version of a secret.

    Raises:
        UsageError: it is not there, or may not be read; the message holds the error's code only.
    """
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    reference = f"aws-sm:{name}"
    try:
        found = boto3.client("secretsmanager").get_secret_value(SecretId=name)
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "unknown")
        raise UsageError(f"{reference} cannot be had: {code}", object_name=reference) from None
    except BotoCoreError as error:
        raise UsageError(f"{reference} cannot be had ({type(error).__name__})", object_name=reference) from None
    text = found.get("SecretString")
    return text.encode() if text is not None else bytes(found.get("SecretBinary", b""))
