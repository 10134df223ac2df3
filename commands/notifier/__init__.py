"""Messages to customers.

loop            follows the events and sends messages
notices         which events lead to a message, and its text (templates/)
message_port    the port; email_door and sms_door implement it
"""
