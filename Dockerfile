# One image for web, worker, beat and the sandbox; docker-compose.yml shows the commands.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app

COPY requirements-production.lock .
RUN pip install --no-cache-dir --require-hashes --no-deps -r requirements-production.lock

COPY . .
RUN SECRET_KEY=build DATABASE_URL=postgres://build/build REDIS_URL=redis://build \
    python manage.py collectstatic --no-input \
    && useradd --system --create-home commerce \
    && install -d -o commerce /var/lib/commerce
USER commerce
VOLUME /var/lib/commerce

EXPOSE 8000
HEALTHCHECK --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/livez')"]
CMD ["gunicorn", "commerce.wsgi", "--bind", "0.0.0.0:8000", "--worker-class", "gthread", \
     "--workers", "2", "--threads", "8", "--no-control-socket"]
