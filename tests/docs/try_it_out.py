"""What a person does at /docs: opens "Acquire a lock", presses "Try it out" and "Execute", and reads the answer."""

import json
import shutil
import sys
import tempfile
import urllib.request

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.ui import WebDriverWait

LIMIT_S = 60
# Alone with the server: no updates, no accounts, no other traffic.
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-dev-shm-usage", "--no-first-run", "--window-size=1280,1600",
]


def open_browser(profile):
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in [*FLAGS, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


def try_it_out(browser, server, screenshot):
    def find(selector, ready=expected_conditions.visibility_of_element_located):
        return WebDriverWait(browser, LIMIT_S).until(ready((By.CSS_SELECTOR, selector)))

    def press(selector):
        find(selector, expected_conditions.element_to_be_clickable).click()

    browser.get(f"{server}/docs")
    acquire = "#operations-locks-acquire"
    press(f"{acquire} .opblock-summary-control")
    press(f"{acquire} .try-out__btn")
    key = find(f"{acquire} tr[data-param-name=key] input")
    assert key.get_attribute("value") == "my_lock", key.get_attribute("value")
    # With an Idempotency-Key from the document, all users of the page would get the same lease.
    idempotency_key = find(f"{acquire} tr[data-param-name=Idempotency-Key] input")
    assert idempotency_key.get_attribute("value") == "", idempotency_key.get_attribute("value")
    press(f"{acquire} .execute")

    status = find(f"{acquire} .live-responses-table tbody .response-col_status")
    body = find(f"{acquire} .live-responses-table tbody .response-col_description .highlight-code")
    browser.execute_script("arguments[0].scrollIntoView()", find(f"{acquire} .responses-wrapper"))
    browser.save_screenshot(screenshot)
    return status.text.strip(), body.text


def main(server, screenshot):
    with tempfile.TemporaryDirectory() as profile:
        browser = open_browser(profile)
        try:
            status, body = try_it_out(browser, server, screenshot)
            errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        finally:
            browser.quit()
    assert status.split()[0] == "201", status
    assert '"key": "my_lock"' in body and '"lease_id"' in body and '"fencing_token"' in body, body
    # A lock that the page says it holds is held.
    with urllib.request.urlopen(f"{server}/locks/my_lock") as answer:
        lock = json.load(answer)
    assert lock["held"] and f'"fencing_token": {lock["fencing_token"]}' in body, (lock, body)
    assert not errors, errors
    print(f"/docs: {status.split()[0]} for Try it out on acquire; {screenshot}")


main(*sys.argv[1:])
